"""The embedded broker: a server for Kestrel's memcache protocol on SQLite, reached over a socket like any Kestrel.

Of the rest of the gateway it imports only gateway/common/. Only cli.py imports the broker, for the command `broker`.
Modules, from the bottom:

    codec       bytes to commands, answers to bytes; no I/O
    config      the TOML file and the limits of a queue
    memory      the limit for incomplete items and unread answers
    batch       the changes of one transaction, and the tickets that answers wait for
    checksum    the checksums of rows
    schema      the layout of the SQLite file, and upgrades of older layouts
    inventory   the content of the file at the start
    reader      reads rows, and leaves out damaged ones
    reserve     disk space that is reserved for removals
    database    the SQLite file: write a batch, recover
    queue       one FIFO in memory: items, open reads, waiters, limits; no I/O
    collection  all queues: names, fanout children, expiry, statistics
    committer   group commit: collects changes for the disk, and settles their tickets
    threads     the writer and the reader, which block on the disk
    broker      state that all sessions share: queues, status, counters
    answers     the answers of one connection, in order
    waits       gets and monitors that wait for items
    session     one connection: reads bytes, keeps answers in order
    commands    what each command does
    stats       stats and dump_stats
    server      listeners, sweep, start and stop
    check       examines a data directory; repair makes a sound file, check_command is the command line of both
    limited_log log messages that clients can cause at will
    __main__    the command, signals and the parent's channel
"""
