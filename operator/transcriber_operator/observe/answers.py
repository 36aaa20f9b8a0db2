"""Reading what a pod answers, and no more of it than is good for us."""

import aiohttp


async def read_answer(response: aiohttp.ClientResponse, most_bytes: int) -> bytes:
    """Return the whole body; raises ValueError for one that is longer than `most_bytes`."""
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > most_bytes:
            raise ValueError(f"the answer is longer than {most_bytes} bytes")
    return bytes(body)
