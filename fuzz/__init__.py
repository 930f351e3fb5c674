"""Coverage-guided fuzzing of what reads strangers' bytes. `make fuzz`, or `python -m fuzz --seconds 600`.

    items.py    an item as anyone may put it: read, shown in every form, copied, dead-lettered, restored
    events.py   a body as a producer may send it: checked, stored, read back
    json.py     the scan of large JSON against parsers that build it
    codec.py    the broker's memcache protocol
    http.py     the HTTP head and framing, over a real socket

A target is a module with `SEEDS` and `one(data)`, which raises if something is wrong. Inputs that failed once are in
seeds/TARGET/; the tests run them.
"""
