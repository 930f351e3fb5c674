"""`kestrel-gateway work`: takes jobs over HTTP and hands each to a command or to an endpoint."""
