"""Signals → plan → training → gate → registry."""
