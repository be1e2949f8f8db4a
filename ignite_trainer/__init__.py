"""The generic trainer: reads a protocol, builds what it names, runs it, and writes down what happened.

It knows no model, data set or modality: those are reached through the dotted paths of the protocol.
"""
