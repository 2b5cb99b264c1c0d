"""Files as h5py 3.16 writes them, small enough to lie here: most tests need no h5py."""

from __future__ import annotations

import zlib
from base64 import b85decode

_EARLIEST = (
    r"c-rlqKTH!*9LL|?*>Ej31!Dqnz#26)xD@|FCE+x!>7rD?gw2w)Nl}o75`!*wtQ%uT#*U5-4h{|-"
    r"9UU1R8Qrkw`@OdB)w>?n(u00~mrs7YyI=0_?|yyn_j{!u)5#~{(3KFg#WdLkHpbfJnB-"
    r"tfZj0?%(i-Us>6$LqYk#&)()w}QziPL-oJ!f&$BKyK90s_S&kiyyl1@F!*m{lHG17Hiw%c5Pm)|Kdwq4xa*xGoX-"
    r"=X!}xt!#uagWD!^53+<+l7EP|NR-{dJ>Nk{@akKh?fD`E|-"
    r"5(%D;@0o+W*|>9=zyJnqV~rKH9TW{Tq)a=cdkSe)1Xru%+H9Ih1P{e7bL_gClZ`8mab%m{B6gWlr6QJ8BJuLR;i+k3"
    r"Phl<nTG+n-`>?`e<6RpUTxM1F5oKNjbey{Yu?s9l?uKhF+lWV_D~xc)Ie9C2W6l(+Z7-"
    r"r|6H9sOCvfmR$4{!|UicA}p;tBkX(p5lPkj05pedB3V3L!9D3fZsDswE2ic)A@?aWVb+CZ5xdzZd;B=uQtZqyyrDxv"
    r"WXA0J<xbU_I6$8J2c5d3@uF|<Lf2)jP?e6N6L!;0000000000008(Eo)^`ddC|FuxB6%126Cb9c~PFX)HJ?gitMI3@"
    r"}Lo>)13_kSSZpp4{F|$GpbCPf#mOcky=OVS}(eTx-sfSops~-bbsr{j`N>r0#;$hoBw9-"
    r"q23Aq?W}iJX8K$2bn@Sh`3Va>ELIQ8<9}ah$_863w}3z(5C{a~UDSC|(U{!-"
    r"Q2V<OujBvInipk0<QD##7p3NvGI!nW#rUXpAHL-7SN+N>CC@}&sq6QRmXI&Pc)K%S^lN@F`J(z$ipB}|d_XnP-"
    r"+X|JSO5S30000000000_?2$?U~5^<144#N)cR&7A?H)o{4B&Nzdfk>X8i@X@OOPP{@mTZ`G3P!;7jg))vx+y`Hak)S"
    r"MP@@#Vez6z4qT@rl@gRU9S5JUAI~hJvb*GWLW?J00000000000QeQBdE@HuNp!1orC<L&%Lf?_ar)lFk@9;arQLk7J"
    r")iu4eqW(gU#qU-S@fe0Vl?yrN*(0dN$Y9fs2*_9*L9HJ*ZW9`"
)
_LATEST = (
    r"c-"
    r"rmUPiWI{6bJD4OPVZ(x^AUd>|s{$;APqtCKC!P(v1!Torr=WGH51q(~frdAGU)c%2d#cw+(g|VZxkx*im76QRqR`n+"
    r"MT@Y=_Avnyjz2DGu8;gGRnDd`R=lzu)hdyxU7}rII~c^^h)W8WrOght^xzj&S>|_sOY4spJufE=m6K1B;<cB#6{jGF"
    r"R$w|79bao8fcSfYrDqGcr1OZt#kcos4pOv(+wV(&<=?58Y1d$Is-mg=)Isx31chHqPga(~*6G?^WI!J?i;OYb@Kuci"
    r"OgI7k+$Q`BF_6eAZ<>7y7fgIle!2lQVJm<hT9Rbir$NK}6ybkF>BIP04(n&W(3ruJ2=JtqbM_#V#UA5+cC+;=HchmI"
    r"EYO!#k)j@nH&T6dW^uDQ0hFT{A}_3*y&s-p?mZQNzdgrNf^~b72nJoC?v#``T<{_fg?dw2-"
    r"cl?yDI4e8@gu^q5>1&B~37wPi=%<8XFN<Y)3VWXB1`o*e^f{n_z$`uf6VWXEdAec3T}@BMuzvg1X&`?F(raPm=Y*|F"
    r"U2aCV$|-S^PeFx~|K000000002cu;O(rL<s-@00000004l7RmW08f#lUa_5#V9d+RTdOwJyEz8M9Q%N_13kX-"
    r"D3HQ_{o<kOV<3nb6pzIL!Q7v_Vu#w&YCv}nYY;R)NAmw3#jj~8Cje-pjO-gT_aMflSPb*Nl5#iO}VW8^`^;o{N2*qi"
    r"CfSGD*tfn5Ho?)*m`Ge0)3i(l0q>5f7Ogi9ll00000000000BBeTHog@9;-_o;kKZ_4K+g"
)

EARLIEST = zlib.decompress(b85decode(_EARLIEST))
"""What ``h5py.File(path, "w")`` makes: groups with a table of their members.

In it are ``layers/dense_I/vars/0`` (F32, 20 by 60, all I + 1) and ``/1`` (F16, 30) for I from
0 to 2, ``optimizer/step`` (I64, 7) and ``odd`` (3 big-endian floats).
"""

LATEST = zlib.decompress(b85decode(_LATEST))
"""The same with ``libver="latest"``: groups whose members are in their headers."""
