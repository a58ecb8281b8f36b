"""The planned suite: which models, engines, peers and cases it measures."""
