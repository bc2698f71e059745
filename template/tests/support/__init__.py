"""What the tests share: databases, tasks to run, workers in processes of their own."""
