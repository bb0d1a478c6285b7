"""Runs as lists, trees and live lines."""
