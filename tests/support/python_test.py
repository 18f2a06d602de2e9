"""Runs a Python test as ctest wants it: python_test.py TEST.py ARGUMENT...

Why tests were skipped is printed, which unittest does not by itself; a file whose tests were all
skipped exits with 77.
"""

import collections
import os
import runpy
import sys
import unittest

SKIPPED = 77


class Program(unittest.TestProgram):

    def runTests(self):  # of unittest's own; it ends the program
        self.exit = False
        super().runTests()
        skipped = collections.Counter(reason for _, reason in self.result.skipped)
        for reason, tests in skipped.items():
            print(f'skipped: {reason} ({tests} of {self.result.testsRun} tests)')
        if not self.result.wasSuccessful():
            sys.exit(1)
        if self.result.testsRun == 0:
            sys.exit('no test ran')
        sys.exit(SKIPPED if skipped and skipped.total() >= self.result.testsRun else 0)


if __name__ == '__main__':
    unittest.main = Program
    del sys.argv[0]
    sys.path[0] = os.path.dirname(os.path.abspath(sys.argv[0]))
    found = runpy.run_path(sys.argv[0], run_name='__main__').values()
    # Program ends this one. A file without unittest has a main of its own.
    if any(isinstance(value, type) and issubclass(value, unittest.TestCase) for value in found):
        sys.exit('no test ran: unittest.main() is missing')
