"""The memcache protocol of one connection to Kestrel: pymemcache on asyncio, and the answers as values."""
