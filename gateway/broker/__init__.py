"""The embedded broker: a server of the Kestrel memcache protocol on SQLite, reached over a socket like any Kestrel.

Of the rest of the gateway it imports only what knows SQLite's log (gateway/wal.py), and nothing of the gateway imports
it. Modules, from the bottom:

    codec       bytes to commands, answers to bytes; no I/O
    config      the TOML file and the limits of a queue
    memory      the limit on half-sent items and unread answers
    batch       what goes to disk together, and the tickets that answers wait on
    checksum    the checksums of rows
    schema      the layout of the SQLite file, and older ones brought up to date
    inventory   what a start finds in the file
    reader      reads rows, and leaves out what is damaged
    reserve     room on the disk for removals
    database    the SQLite file: write a batch, recover
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
