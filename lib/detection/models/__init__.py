"""The nets of models/ and of the default job: each is defined once, and its prototxt files are written from that."""
