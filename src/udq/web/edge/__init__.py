"""The edge of the server: addresses, listening sockets, and limits that hold before a request is admitted."""
