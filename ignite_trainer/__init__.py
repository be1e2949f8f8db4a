"""The generic trainer: reads a protocol, builds its parts, runs it, and records the results.

It knows no model, data set or modality: those are reached through the dotted paths of the protocol.
"""
