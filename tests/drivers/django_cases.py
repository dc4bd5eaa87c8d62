"""Django's settings and its runner of tests for a run of its own suite on PostgreSQL: each case's outcome as a line of the
file that CASE_LOG names."""

import os
import unittest

from django.test.runner import DiscoverRunner


def database(name):
    return {
        "ENGINE": "django.db.backends.postgresql",
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "USER": os.environ["PGUSER"],
        "PASSWORD": os.environ["PGPASSWORD"],
        "NAME": name,
    }


DATABASES = {"default": database("django"), "other": database("django_other")}
SECRET_KEY = "of no use"
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
DEFAULT_AUTO_FIELD = "django.db.models.AutoField"
USE_TZ = False
TEST_RUNNER = "django_cases.Runner"


class Result(unittest.TextTestResult):
    """The worst of a case and its subtests, written when it has ended."""

    def startTest(self, test):
        super().startTest(test)
        self.outcome = "passed"

    def addFailure(self, test, problem):
        super().addFailure(test, problem)
        self.fail(test)

    def addError(self, test, problem):
        super().addError(test, problem)
        self.fail(test)

    def addSubTest(self, test, subtest, problem):
        super().addSubTest(test, subtest, problem)
        if problem:
            self.fail(test)

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self.outcome = "skipped"

    def addExpectedFailure(self, test, problem):
        super().addExpectedFailure(test, problem)
        self.outcome = "skipped"

    def fail(self, test):
        self.outcome = "failed"
        # The setup of a class or module has no start.
        if not isinstance(test, unittest.TestCase):
            self.write(test)

    def stopTest(self, test):
        super().stopTest(test)
        self.write(test)

    def write(self, test):
        with open(os.environ["CASE_LOG"], "a") as log:
            print(self.outcome, test.id(), sep="\t", file=log)


class Runner(DiscoverRunner):
    def get_resultclass(self):
        return Result
