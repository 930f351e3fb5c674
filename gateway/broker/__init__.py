"""The embedded broker: a server of the Kestrel memcache protocol on SQLite, reached over a socket like any Kestrel.

Nothing of it imports the rest of the gateway, and nothing of the gateway imports it. Modules, from the bottom:

    codec       bytes to commands, answers to bytes; no I/O
    config      the TOML file and the limits of a queue
    batch       what goes to disk together, and the tickets that answers wait on
    database    the SQLite file: write a batch, read ahead, recover
    queue       one FIFO in memory: items, open reads, waiters, limits; no I/O
    collection  all queues: names, fanout children, expiry, statistics
    committer   group commit: what goes to disk together, and who hears of it
    threads     the writer and the reader, which block on the disk
    broker      what all sessions share: queues, status, counters
    session     one connection: takes bytes, keeps answers in order
    commands    what each command does
    stats       stats and dump_stats
    server      listeners, sweep, start and stop
    __main__    the command, signals and the parent's channel
"""
