"""Fine-tuning: candidates trained further as networks of their own, by jobs."""
