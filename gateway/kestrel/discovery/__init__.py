"""The list of Kestrel servers: from the settings, a file, DNS or ZooKeeper."""
