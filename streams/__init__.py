"""Every edge: Kafka contracts, the client SDK, Faust agents, HTTP, command line, settings, wiring."""
