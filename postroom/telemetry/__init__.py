"""What the service tells of itself: its log as text or JSON, shipped lines, metrics, traces, incidents."""
