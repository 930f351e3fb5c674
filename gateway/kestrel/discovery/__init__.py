"""Which Kestrel servers there are: from the settings, a file, a name server or ZooKeeper."""
