"""The embedded broker: a server for Kestrel's memcache protocol on SQLite, reached over a socket like any Kestrel.

Of the rest of the gateway it imports only gateway/common/. Only cli.py imports the broker.
Packages and modules, from the bottom; tests/test_layers.py holds the order:

    config       the TOML file and the limits of a queue
    counters     what `stats` and `dump_stats` count
    memory       the limit for incomplete items and unread answers
    client_log   log lines about clients
    connections  how many connections there may be, and which one is closed at the limit
    listening    addresses, and sockets bound to them
    storage/     the disk; knows no queue in memory
        batch         the changes of one transaction, and the tickets that answers wait for
        checksum      the checksums of rows
        schema        the layout of the SQLite file, and upgrades of older layouts
        inventory     the content of the file at the start
        reader        reads rows, and leaves out damaged ones
        reserve       disk space that is reserved for removals
        opening       locks the directory and opens the file
        batch_writer  writes a batch in one transaction
        database      the directory: what happens when a batch cannot be written
        committer     group commit: collects changes for the disk, and settles their tickets
        threads       the writer and the reader, which block on the disk
        transaction   one transaction that writes
        large/        large items: their format on disk, their parts, and the order in which these are written
    check/       the commands `check` and `compact`: examine reads a data directory, repair makes a sound file
    queues/      the queues in memory; knows no protocol
        backlog       the items that no client has read, in order
        reads         modes of reading, and the open reads of a queue and of a client's connection
        waiters       the reads that wait
        serving       serves the waiters of many queues, some in each turn of the loop
        queue         one FIFO: who gets which item, limits, expiry; no I/O
        collection    all queues: names, fanout children, moves of expired items
    broker       what a client can do with items, whatever its protocol; status, configuration
    memcache/    Kestrel's memcache protocol
        codec         bytes to commands, answers to bytes; no I/O
        answers       the answers of one connection, in order
        session       the commands of one connection, in order; no sockets
        long_commands gets that wait, monitors, answers in parts
        commands      what each command does
        stats         stats and dump_stats
        connection    the socket of one client: buffers, silence, the end
    multiplex/   the multiplexed connection of a worker; its frames and messages are in gateway/common/multiplex/
        budget        the bytes of a worker's open items
        commits       calls back operations after a commit
        waits         an open or a peek that waits
        puts          puts, and queues that are created
        reads         open reads, and opens that wait
        connection    which operation each frame is
    server       listens, stops in order
    __main__     the command, signals and the parent's channel
"""
