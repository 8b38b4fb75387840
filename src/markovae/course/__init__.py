"""The course: exercises that mark themselves, by random inputs, and say in words what is wrong.

from markovae.course import check

def posterior_variance(logsnr_prev, logsnr):
    ...

check(posterior_variance)
"""

from markovae.course.marking import Mark, check, exercise_named, exercises

__all__ = ["Mark", "check", "exercise_named", "exercises"]
