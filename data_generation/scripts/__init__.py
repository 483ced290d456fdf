"""What every script shares: command line, streams, device, the cache of compiled programs."""
