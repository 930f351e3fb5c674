"""`kestrel-gateway work`: takes jobs over HTTP and gives each to a command or to an endpoint."""
