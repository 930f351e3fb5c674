"""The embedded broker: a server for Kestrel's memcache protocol on SQLite, reached over a socket like any Kestrel.

Of the rest of the gateway it imports only gateway/common/. Only cli.py imports the broker, for the command `broker`.
Packages and modules, from the bottom; tests/test_layers.py holds the order:

    config       the TOML file and the limits of a queue
    memory       the limit for incomplete items and unread answers
    storage/     the disk; knows no queue in memory
        batch        the changes of one transaction, and the tickets that answers wait for
        checksum     the checksums of rows
        schema       the layout of the SQLite file, and upgrades of older layouts
        inventory    the content of the file at the start
        reader       reads rows, and leaves out damaged ones
        reserve      disk space that is reserved for removals
        database     the SQLite file: write a batch, recover
        committer    group commit: collects changes for the disk, and settles their tickets
        threads      the writer and the reader, which block on the disk
    check/       the command `check`: examine reads a data directory, repair makes a sound file, command is both
    queues/      the queues in memory; knows no protocol
        queue        one FIFO: items, open reads, waiters, limits; no I/O
        collection   all queues: names, fanout children, expiry
    broker       what all connections share: queues, status, counters
    memcache/    Kestrel's memcache protocol
        codec        bytes to commands, answers to bytes; no I/O
        answers      the answers of one connection, in order
        waits        gets and monitors that wait for items
        session      one connection: reads bytes, keeps answers in order
        commands     what each command does
        stats        stats and dump_stats
    server       listeners, start and stop
    __main__     the command, signals and the parent's channel
"""
