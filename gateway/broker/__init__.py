"""The embedded broker: a server of the Kestrel memcache protocol on SQLite, reached over a socket like any Kestrel.

Nothing of it imports the rest of the gateway, and nothing of the gateway imports it. Modules, from the bottom:

    codec       bytes to commands, answers to bytes; no I/O
    config      the TOML file and the limits of a queue
    batch       what goes to disk together, and the tickets that answers wait on
    database    the SQLite file: write a batch, read ahead, recover
    queue       one FIFO in memory: items, open reads, waiters, limits; no I/O
    collection  all queues: names, fanout children, expiry, statistics
    committer   the writer's and the reader's thread: group commit
    session     one connection: runs commands, keeps answers in order
    server      listeners, sweep, start and stop
    __main__    the command, signals and the parent's channel
"""
