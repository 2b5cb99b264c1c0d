"""zstd frames that state their size and are believed only when it is the right one.

Enters: bytes, and perhaps a dictionary that both sides hold. Leaves: one
frame without checksum or dictionary id (both are kept elsewhere), or bytes of
exactly the size asked for.
"""

from __future__ import annotations

import io

import zstandard

from sparsediff.errors import CorruptError

MAX_WINDOW = 1 << 27  # bytes


def compress(
    data: bytes | memoryview, level: int, dictionary: bytes = b"", prefix: bytes = b""
) -> bytes:
    """``prefix``, then one frame of ``data`` that may refer to all of ``dictionary``."""
    size = len(data) + len(dictionary)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        level,
        source_size=len(data),
        dict_size=len(dictionary),
        **({"window_log": min(max(size.bit_length(), 10), 27)} if dictionary else {}),
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=_raw(dictionary))
    # A growing buffer, so that payloads of many megabytes are not held twice.
    out = io.BytesIO()
    out.write(prefix)
    with compressor.stream_writer(out, size=len(data), closefd=False) as writer:
        writer.write(data)
    return out.getvalue()


def compress_columns(text: bytes) -> bytes:
    """One frame of JSON in columns, of which there may be many megabytes.

    There the slowest level takes seconds, and level 12 is quicker than level 16 and finds more.
    """
    return compress(text, level=19 if len(text) <= 1 << 20 else 12)


def decompress(frame: bytes, size: int, dictionary: bytes = b"") -> bytes:
    """Decompress exactly one frame that states and has exactly ``size`` bytes.

    Raises:
        CorruptError: it is anything else. The size a frame states is compared
            before memory is taken, because the library trusts it.
    """
    stated = stated_size(frame)
    if stated != size:
        raise CorruptError("zstd frame has the wrong size", expected=size, found=stated)
    decompressor = zstandard.ZstdDecompressor(dict_data=_raw(dictionary))
    try:
        if size:
            data = decompressor.decompress(frame, max_output_size=size, allow_extra_data=False)
        else:  # there the library does not look at the frame at all
            stream = decompressor.decompressobj()
            data = stream.decompress(frame)
            if stream.unused_data or not stream.eof:
                raise CorruptError("zstd frame of no bytes is cut off, or not alone")
    except zstandard.ZstdError as e:
        raise CorruptError(f"damaged zstd frame ({e})") from None
    if len(data) != size:
        raise CorruptError("zstd frame has the wrong size", expected=size, found=len(data))
    return data


def stated_size(frame: bytes) -> int:
    """Size that a frame says it decompresses to.

    Raises:
        CorruptError: this is no zstd frame, or it does not say.
    """
    try:
        if not frame.startswith(b"\x28\xb5\x2f\xfd"):
            raise CorruptError("not a zstd frame")
        parameters = zstandard.get_frame_parameters(frame)
    except zstandard.ZstdError as e:
        raise CorruptError(f"damaged zstd frame ({e})") from None
    if parameters.content_size >= 1 << 63:  # the library's marks for "unknown" and "error"
        raise CorruptError("zstd frame does not state its size")
    if parameters.dict_id:
        raise CorruptError("zstd frame names a dictionary", found=parameters.dict_id)
    if parameters.window_size > MAX_WINDOW:
        raise CorruptError("zstd frame needs too large a window", found=parameters.window_size)
    return parameters.content_size


def _raw(dictionary: bytes) -> zstandard.ZstdCompressionDict | None:
    if not dictionary:
        return None
    return zstandard.ZstdCompressionDict(dictionary, zstandard.DICT_TYPE_RAWCONTENT)
