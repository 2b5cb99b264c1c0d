"""A program that follows a store without end: ``HOW STORE DIRECTORY``, with asyncio or without."""

from __future__ import annotations

import asyncio
import sys

from sparsediff import Follower, open_store


async def _follow(follower: Follower) -> None:
    async for arrival in follower:
        print(arrival.version.name, flush=True)


if __name__ == "__main__":
    following = Follower(open_store(sys.argv[2]), sys.argv[3], every=0.01, jobs=2)
    if sys.argv[1] == "asyncio":
        asyncio.run(_follow(following))
    for version in following:
        print(version.version.name, flush=True)
