from __future__ import annotations

import random

from asgi_analytics.decide.actor import begin_session
from asgi_analytics.facts import Program, ThrottleLevel
from asgi_analytics.model import Decision

from .conduct import attack, send, send_form
from .visits import START, Visit, known_site, policy_of


def test_refused_credentials_without_end_are_stuffing_for_one_who_loaded_the_form_too() -> None:
    visit = Visit()
    send(visit, "/login")
    levels = [send(visit, "/login", 401, method="POST", attempt=0, inner=True).level for _ in range(70)]
    assert levels[19:21] == [0, 1]
    assert (visit.codes, visit.level) == ({"credential_stuffing"}, ThrottleLevel.BLOCKED)


def test_a_logged_out_tab_that_polls_with_its_token_tries_once() -> None:
    visit = Visit()
    for _ in range(600):
        send(visit, "/api/me", 401, attempt=77, after=2.0, inner=True)
    assert visit.visitor.behaviour.traces is not None
    assert (visit.visitor.behaviour.traces.tries, visit.level) == (1, 0)


def tries(visit: Visit) -> int:
    assert visit.visitor.behaviour.traces is not None
    return visit.visitor.behaviour.traces.tries


def test_two_pollers_of_a_logged_out_tab_try_once_each() -> None:
    visit = Visit()
    for number in range(600):
        send(visit, "/api/save", 401, method="POST", attempt=(11, 13)[number % 2], after=(0.1, 9.9)[number % 2])
    assert (tries(visit), visit.level) == (2, 0)


def test_five_calls_of_one_page_at_once_are_polls() -> None:
    visit = Visit()
    for number in range(100):
        send(visit, "/api/save", 401, method="POST", attempt=11, after=0.0 if number % 5 else 10.0)
    assert tries(visit) == 1


def test_guesses_of_one_length_without_a_pause_are_no_poll() -> None:
    """Such as codes of six digits."""
    visit = Visit()
    for _ in range(100):
        send(visit, "/otp", 401, method="POST", attempt=11, after=0.05)
    assert (visit.codes, visit.level) == ({"credential_stuffing"}, ThrottleLevel.BLOCKED)


def test_guesses_of_one_length_with_a_pause_now_and_then_are_no_poll_either() -> None:
    visit = Visit()
    visit.visitor.program = Program.TOOL
    for number in range(600):
        send(visit, "/login", 401, method="POST", attempt=11, after=0.05 if number % 29 else 1.1)
    assert (visit.codes, visit.level) == ({"credential_stuffing"}, ThrottleLevel.BLOCKED)


def test_four_devices_that_wait_for_their_token_poll() -> None:
    visit = Visit()
    visit.visitor.program = Program.TOOL
    for _ in range(2_000):
        send(visit, "/oauth/token", 400, method="POST", attempt=11, after=1.25)
    assert (tries(visit), visit.level) == (1, 0)


def test_one_token_again_and_again_is_no_guess_however_fast() -> None:
    visit = Visit()
    for _ in range(100):
        send(visit, "/api", 401, attempt=12, after=0.05)
    assert tries(visit) == 1


def test_a_school_behind_one_address_that_also_gets_it_right_mistypes_as_it_may() -> None:
    """200 alike browsers, a login each three seconds, every fourth mistyped."""
    visit = Visit()
    send(visit, "/login")
    for number in range(200):
        visit.now += 3.0
        if number % 4:
            visit.judge.data_or_post(visit.visitor, False, "/login", Decision(), visit.now)
        else:
            send(visit, "/login", 401, method="POST", attempt=0, inner=True, after=0.0)
    assert (tries(visit), visit.visitor.score) == (1, 0)  # the first one comes before anybody got it right


def test_successes_excuse_so_many_tries_and_no_more() -> None:
    visit = Visit()
    for _ in range(1000):
        visit.judge.data_or_post(visit.visitor, False, "/search", Decision(), visit.now)
    for _ in range(170):
        send(visit, "/login", 401, method="POST", attempt=0, after=0.1)
    assert tries(visit) == 20
    send(visit, "/login", 401, method="POST", attempt=0)
    assert visit.codes == {"credential_stuffing"}


def test_forty_people_of_an_office_who_mistype_over_a_day_are_no_stuffing() -> None:
    visit, rng = Visit(), random.Random(1)
    send(visit, "/login")
    for _ in range(80):
        send(visit, "/login", 401, method="POST", attempt=0, inner=True, after=rng.expovariate(1 / 360))
    assert visit.visitor.score == 0


def test_where_nobody_gets_it_right_the_app_may_be_at_fault() -> None:
    late = attack(known_site(), 200, right=0)[-1]
    for _ in range(6):
        send(late, "/login", 401, method="POST", attempt=0)
    assert (late.visitor.score, late.level) == (0, 0)


def test_many_who_try_a_few_passwords_each_are_one_attack() -> None:
    late = attack(known_site(), 40)[-1]
    assert late.codes == {"distributed_stuffing"}
    for _ in range(2):
        send(late, "/login", 401, method="POST", attempt=0)
    assert late.level == ThrottleLevel.BLOCKED


def test_somebody_who_loaded_a_page_is_not_part_of_an_attack() -> None:
    site = known_site()
    attack(site, 40)
    person, returning = Visit(site=site), Visit(site=site)
    send(person, "/login")
    send(returning, "/login")
    begin_session(returning.visitor, returning.now)
    for visit in (person, returning):
        for _ in range(6):
            send(visit, "/login", 401, method="POST", attempt=0, after=5.0)
        assert visit.visitor.score == 0


def test_a_library_that_loads_the_form_first_is_part_of_an_attack() -> None:
    """It needs the token that the form has."""
    site = known_site()
    attack(site, 40)
    library = Visit(site=site)
    library.visitor.program = Program.TOOL
    for _ in range(4):
        send(library, "/login")
        send(library, "/login", 401, method="POST", attempt=0)
    assert (library.codes, library.level) == ({"distributed_stuffing"}, ThrottleLevel.BLOCKED)


def test_a_busy_app_whose_people_log_in_is_not_attacked() -> None:
    """Every fifth password is wrong; nobody of them loads a page."""
    site, policy = known_site(), policy_of()
    for number in range(400):
        visit = Visit(policy, site)
        if number % 5:
            visit.judge.data_or_post(visit.visitor, False, "/login", Decision(), START + number)
        else:
            visit.now = START + number
            for _ in range(2):
                send(visit, "/login", 401, method="POST", attempt=0, after=0.1)
            assert visit.visitor.score == 0


def test_a_form_that_is_shown_again_refuses_credentials_and_is_no_error() -> None:
    visit = Visit()
    for _ in range(70):
        send_form(visit, "/login", 0)
    assert (visit.codes, visit.level) == ({"credential_stuffing"}, ThrottleLevel.BLOCKED)
    assert visit.visitor.behaviour.errors == 0


def test_a_token_that_ran_out_is_one_fault_wherever_it_is_sent() -> None:
    """A phone's app syncs eighty notes with it; somebody who tries eighty tokens guesses."""
    app, thief = Visit(), Visit()
    for number in range(80):
        send(app, f"/v1/notes/{number}", 401, attempt=1 << 33, after=0.2)
        send(thief, f"/v1/notes/{number}", 401, attempt=(1 << 33) + 2 * number, after=0.2)
    assert (app.visitor.score, app.level) == (0, ThrottleLevel.NORMAL)
    assert (thief.codes, thief.level) == ({"credential_stuffing"}, ThrottleLevel.BLOCKED)
