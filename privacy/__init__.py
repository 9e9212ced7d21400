"""What is promised, who agreed, what was spent. No Kafka and no torch."""
