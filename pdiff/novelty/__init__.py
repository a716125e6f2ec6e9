"""What the paper's Section 4 reports: IoU of wrong predictions, summaries, intervals, claims."""
