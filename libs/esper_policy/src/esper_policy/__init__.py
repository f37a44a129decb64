"""The policy class that Tamiyo serves and Simic trains: graph schema, graph builder, network, action space."""
