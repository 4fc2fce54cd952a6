"""Forty compiler bugs, each a small change to what one pass makes of one program; see bugs.py."""
