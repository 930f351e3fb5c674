"""The memcache protocol on one connection to Kestrel: pymemcache on asyncio, and answers as values."""
