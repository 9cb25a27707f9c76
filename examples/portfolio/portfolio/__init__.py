"""What assets at several brokers are worth, in any currency, on any day."""
