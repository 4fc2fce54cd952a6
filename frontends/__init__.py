"""Frontends: ways of writing a recurrent program, each of which becomes a graph. One file or folder each."""
