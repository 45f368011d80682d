"""Interfaces by their addresses."""

from __future__ import annotations

import socket

import psutil

from riboray.pretraining.network import interface_of


def test_every_interface_is_found_by_its_address():
    addresses = {
        entry.address: name
        for name, entries in psutil.net_if_addrs().items()
        for entry in entries
        if entry.family == socket.AF_INET
    }
    assert addresses["127.0.0.1"] == "lo"
    for address, name in addresses.items():
        assert interface_of(address) == name


def test_an_address_of_elsewhere():
    assert interface_of("192.0.2.1") is None
