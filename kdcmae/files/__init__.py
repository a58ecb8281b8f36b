"""Reading and writing files: people's text files, files that appear whole, full disks."""
