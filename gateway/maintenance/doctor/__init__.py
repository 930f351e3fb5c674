"""The command `doctor`: examines the host, the settings and the Kestrel servers, and changes nothing."""
