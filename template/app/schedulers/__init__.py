"""What drives the schedules: whatever calls `Scheduler.tick`, or the same by a request. One of the files stays."""
