"""Caffe's file formats: messages in text and binary form, upgrades of old forms, weights and solver states."""

from caffelite.proto.files import read_binary, read_net, read_solver, read_text, replacing, write_binary
from caffelite.proto.schema import enum, message
from caffelite.proto.text import parse_text, to_text
from caffelite.proto.upgrade import upgrade_net, upgrade_solver

__all__ = [
    "enum",
    "message",
    "parse_text",
    "read_binary",
    "read_net",
    "read_solver",
    "read_text",
    "replacing",
    "to_text",
    "upgrade_net",
    "upgrade_solver",
    "write_binary",
]
