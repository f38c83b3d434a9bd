"""The data: sources -> clean -> blocks and conversations -> split -> Arrow, and packing into windows."""
