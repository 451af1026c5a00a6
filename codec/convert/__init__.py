"""Published checkpoints to model folders: one module per source, its keys as data; by name in `codec.convert.build`."""
