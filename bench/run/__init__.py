"""One benchmark run: subjects and peers, each in its process, timed in turns."""
