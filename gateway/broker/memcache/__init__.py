"""The memcache protocol of Kestrel: connections, their commands and answers."""
