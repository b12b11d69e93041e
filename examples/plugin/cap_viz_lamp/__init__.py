"""A criterion, a task and a head metric for CAP Viz."""
