"""Redis Streams for jobs, Pub/Sub for events: several processes as one system."""
