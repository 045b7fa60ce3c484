"""The 93 cases of OTP's supervisor_SUITE (erlang/otp lib/stdlib/test/supervisor_SUITE.erl, 2025) and which do not apply.

What each case checks is said in our words. A case without a reason not to apply must be covered by a test marked `otp(number)`.
"""

from __future__ import annotations

import attrs

INIT = "a supervisor is a literal: there is no init function that could say ignore"
TUPLES = "there is one form of spec; its checks are cases 15 and 27"
EXTRA = "a start has no second result: what a child hands over goes through a mailbox"
LINKS = "there are no links to cut; instead: a child that will not stop is reported and hangs nobody (test_shutdown.py)"
CODE = "hot code upgrade: a new version is a new process, which resumes from the log"
DIST = "distribution: there are no global names; an actor keeps its id over restarts"
LEGACY = "a callback of the old error_logger; the limits are case 90"
SIMPLE = "simple_one_for_one: the tree is a literal, no supervisor of it makes children of one kind on demand"


@attrs.frozen
class Case:
    """One case of the suite."""

    number: int
    group: str
    name: str
    checks: str
    not_applicable: str = ""
    deviation: str = ""
    """What is different here on purpose, though the case is covered."""


CASES = (
    Case(1, "sup_start (12)", "sup_start_normal", "starts and stops cleanly"),
    Case(2, "sup_start (12)", "sup_start_ignore_init", "init = ignore gives ignore, no exit signal", INIT),
    Case(3, "sup_start (12)", "sup_start_ignore_child", "start = ignore keeps the spec, idle; counts [2,1,0,2]"),
    Case(4, "sup_start (12)", "sup_start_ignore_temporary_child", "temporary + ignore at init: spec not kept"),
    Case(5, "sup_start (12)", "sup_start_ignore_temporary_child_start_child", "same through start_child"),
    Case(
        6,
        "sup_start (12)",
        "sup_start_ignore_temporary_child_start_child_simple",
        "same under simple_one_for_one",
        SIMPLE,
    ),
    Case(
        7,
        "sup_start (12)",
        "sup_start_ignore_permanent_child_start_child_simple",
        "same for permanent; supervisor still stops without error",
        SIMPLE,
    ),
    Case(8, "sup_start (12)", "sup_start_error_return", "init returns rubbish: bad_return, no stray exit"),
    Case(9, "sup_start (12)", "sup_start_fail", "init raises: error with reason and stack, no stray exit"),
    Case(
        10,
        "sup_start (12)",
        "sup_start_child_returns_error",
        "start_child with an error or other value: error, spec not kept",
    ),
    Case(
        11,
        "sup_start (12)",
        "sup_start_restart_child_returns_error",
        "restart_child whose start raises: error, spec kept idle",
    ),
    Case(12, "sup_start (12)", "sup_start_child_returns_error_simple", "case 10 under simple_one_for_one", SIMPLE),
    Case(13, "sup_start_map (3)", "sup_start_map", "defaults via get_childspec; unknown id not_found"),
    Case(
        14,
        "sup_start_map (3)",
        "sup_start_map_simple",
        "get_childspec by child handle; foreign handle not_found",
        SIMPLE,
    ),
    Case(
        15,
        "sup_start_map (3)",
        "sup_start_map_faulty_specs",
        "missing id, missing start, not a map; unknown key accepted",
        deviation="an unknown key is refused by name",
    ),
    Case(16, "sup_stop (7)", "sup_stop_infinity", "infinity also for workers; both end with shutdown"),
    Case(
        17, "sup_stop (7)", "sup_stop_timeout", "a sleeping child is killed after 1000 ms, the other ends with shutdown"
    ),
    Case(18, "sup_stop (7)", "sup_stop_timeout_dynamic", "same under simple_one_for_one", SIMPLE),
    Case(19, "sup_stop (7)", "sup_stop_brutal_kill", "reason killed against shutdown"),
    Case(20, "sup_stop (7)", "sup_stop_brutal_kill_dynamic", "ten dynamic children, all killed", SIMPLE),
    Case(
        21,
        "sup_stop (7)",
        "sup_stop_race",
        "children ending by themselves during shutdown, 4 reasons x 3 restart types, disturb nothing",
    ),
    Case(
        22,
        "sup_stop (7)",
        "sup_stop_non_shutdown_exit_dynamic",
        "same under simple_one_for_one, 3 restart types",
        SIMPLE,
    ),
    Case(
        23,
        "ungrouped: admin (7)",
        "child_adm",
        "whole life start/terminate/restart/delete/which/count with exact errors; noproc; hibernation",
    ),
    Case(
        24,
        "ungrouped: admin (7)",
        "child_adm_simple",
        "same calls under simple_one_for_one: by handle only, restart/delete refused",
        SIMPLE,
    ),
    Case(
        25,
        "ungrouped: admin (7)",
        "extra_return",
        "ok + extra passed through, also works after an automatic restart",
        EXTRA,
    ),
    Case(
        26,
        "ungrouped: admin (7)",
        "child_specs",
        "tuple specs: each bad field named, valid combinations, duplicates, exactly one for simple",
        TUPLES,
    ),
    Case(
        27,
        "ungrouped: admin (7)",
        "child_specs_map",
        "map specs: same, plus the significant x auto_shutdown cross product",
    ),
    Case(
        28,
        "ungrouped: admin (7)",
        "sup_flags",
        "each bad flag named; unknown flag accepted",
        deviation="an unknown flag is refused by name",
    ),
    Case(
        29, "ungrouped: admin (7)", "multiple_restarts", "restarts spaced beyond the period never exhaust intensity 1"
    ),
    Case(
        30,
        "restart_one_for_one (2)",
        "one_for_one",
        "only the failed one is new; third failure in the window ends the supervisor",
    ),
    Case(
        31,
        "restart_one_for_one (2)",
        "one_for_one_escalation",
        "child that cannot restart takes supervisor and sibling down once the budget is gone",
    ),
    Case(32, "restart_one_for_all (3)", "one_for_all", "all are new; then the counter ends the supervisor"),
    Case(33, "restart_one_for_all (3)", "one_for_all_escalation", "a sibling that cannot restart escalates"),
    Case(
        34,
        "restart_one_for_all (3)",
        "one_for_all_other_child_fails_restart",
        "restarted child is stopped again when a later sibling fails to start",
    ),
    Case(
        35, "restart_simple_one_for_one (6)", "simple_one_for_one", "base case and counter, ends with shutdown", SIMPLE
    ),
    Case(
        36,
        "restart_simple_one_for_one (6)",
        "simple_one_for_one_shutdown",
        "parallel stop: total between 1x and 5x one child's time",
        SIMPLE,
    ),
    Case(37, "restart_simple_one_for_one (6)", "simple_one_for_one_extra", "restart of children with extra", SIMPLE),
    Case(38, "restart_simple_one_for_one (6)", "simple_one_for_one_escalation", "failing restart escalates", SIMPLE),
    Case(
        39,
        "restart_simple_one_for_one (6)",
        "simple_one_for_one_corruption",
        "state stays right after a temporary child died; arguments not retained",
        SIMPLE,
    ),
    Case(
        40,
        "restart_simple_one_for_one (6)",
        "simple_one_for_one_restart_ignore",
        "restart returning ignore drops the child",
        SIMPLE,
    ),
    Case(41, "restart_rest_for_one (3)", "rest_for_one", "later siblings new, earlier one kept; counter"),
    Case(42, "restart_rest_for_one (3)", "rest_for_one_escalation", "later sibling that cannot restart escalates"),
    Case(
        43,
        "restart_rest_for_one (3)",
        "rest_for_one_other_child_fails_restart",
        "retry continues at the failing sibling, earlier restarted one left alone",
    ),
    Case(
        44,
        "normal_termination (4)",
        "external_start_no_progress_log",
        "start_child gives no info-level progress report",
    ),
    Case(45, "normal_termination (4)", "permanent_normal", "restarted"),
    Case(46, "normal_termination (4)", "transient_normal", "not restarted, spec kept"),
    Case(47, "normal_termination (4)", "temporary_normal", "not restarted, spec gone"),
    Case(48, "shutdown_termination (4)", "permanent_shutdown", "restarted on shutdown and shutdown(term)"),
    Case(49, "shutdown_termination (4)", "transient_shutdown", "not restarted, spec kept, restart_child works"),
    Case(50, "shutdown_termination (4)", "temporary_shutdown", "not restarted, spec gone"),
    Case(
        51,
        "shutdown_termination (4)",
        "faulty_application_shutdown",
        "a start failure deep inside surfaces with its cause",
    ),
    Case(52, "abnormal_termination (3)", "permanent_abnormal", "restarted"),
    Case(53, "abnormal_termination (3)", "transient_abnormal", "restarted"),
    Case(54, "abnormal_termination (3)", "temporary_abnormal", "not restarted, spec gone"),
    Case(55, "ungrouped (2)", "child_unlink", "a child that cut its link cannot hang terminate_child", LINKS),
    Case(
        56,
        "ungrouped (2)",
        "tree",
        "nested supervisors: only the dead worker is new; after escalation the tree is rebuilt without dynamic children, and an idle sibling supervisor is started too",
    ),
    Case(57, "significant (14)", "nonsignificant_temporary", "no way of ending triggers, under all three modes"),
    Case(58, "significant (14)", "nonsignificant_transient", "same for transient"),
    Case(
        59,
        "significant (14)",
        "significant_temporary",
        "by hand: no; killed/abnormal/normal: yes; all_significant only on the last",
    ),
    Case(
        60,
        "significant (14)",
        "significant_transient",
        "killed/abnormal restart it; normal end triggers; all_significant on the last",
    ),
    Case(61, "significant (14)", "significant_simple", "any/all_significant refused with simple_one_for_one", SIMPLE),
    Case(
        62,
        "significant (14)",
        "significant_bystander",
        "death through a sibling's strategy does not trigger (3 strategies x 2 modes)",
    ),
    Case(63, "significant (14)", "significant_escalation", "cascades through a significant sub-supervisor only"),
    Case(64, "significant (14)", "significant_upgrade_never_any", "mode change never to any takes effect live", CODE),
    Case(65, "significant (14)", "significant_upgrade_any_never", "any to never", CODE),
    Case(66, "significant (14)", "significant_upgrade_never_all", "never to all", CODE),
    Case(67, "significant (14)", "significant_upgrade_all_never", "all to never", CODE),
    Case(68, "significant (14)", "significant_upgrade_any_all", "any to all", CODE),
    Case(69, "significant (14)", "significant_upgrade_all_any", "all to any", CODE),
    Case(
        70,
        "significant (14)",
        "significant_upgrade_child",
        "significance of a running child changed both ways, refused under never",
        CODE,
    ),
    Case(71, "ungrouped (23)", "count_children", "1000 / 2000 dynamic children counted right, after kills too"),
    Case(72, "ungrouped (23)", "count_children_supervisor", "same with type supervisor"),
    Case(
        73,
        "ungrouped (23)",
        "count_restarting_children",
        "restarting ones leave `active`, stay in `workers`; terminate lowers both",
    ),
    Case(74, "ungrouped (23)", "get_callback_module", "introspection for the release handler", CODE),
    Case(
        75,
        "ungrouped (23)",
        "do_not_save_start_parameters_for_temporary_children",
        "less memory than permanent/transient, 4 strategies",
        deviation="they go when the child does, not while it runs",
    ),
    Case(76, "ungrouped (23)", "do_not_save_child_specs_for_temporary_children", "3 strategies x 4 ways of ending"),
    Case(
        77, "ungrouped (23)", "simple_one_for_one_scale_many_temporary_children", "10x children cost < 50x time", SIMPLE
    ),
    Case(
        78,
        "ungrouped (23)",
        "temporary_bystander",
        "temporary sibling stopped by a strategy is not restarted, supervisor survives",
    ),
    Case(
        79,
        "ungrouped (23)",
        "simple_global_supervisor",
        "kill supervisor / kill worker / end worker / restart_child through a global name",
        DIST,
    ),
    Case(
        80,
        "ungrouped (23)",
        "hanging_restart_loop",
        "during an endless retry: start_child already_present, restart/delete `restarting`, terminate works, supervisor stops promptly",
    ),
    Case(
        81,
        "ungrouped (23)",
        "hanging_restart_loop_rest_for_one",
        "same with siblings: c3 idle, c2 restarting, c1 running",
    ),
    Case(82, "ungrouped (23)", "hanging_restart_loop_simple", "same, dynamic", SIMPLE),
    Case(
        83,
        "ungrouped (23)",
        "code_change",
        "flags and specs swapped live; children neither started nor deleted; errors named",
        CODE,
    ),
    Case(84, "ungrouped (23)", "code_change_map", "same with maps", CODE),
    Case(85, "ungrouped (23)", "code_change_simple", "the one spec replaced; adding or removing refused", CODE),
    Case(86, "ungrouped (23)", "code_change_simple_map", "same with maps", CODE),
    Case(
        87,
        "ungrouped (23)",
        "order_of_children",
        "start order, exact reverse stop order, for rest_for_one and for the whole supervisor",
    ),
    Case(
        88,
        "ungrouped (23)",
        "scale_start_stop_many_children",
        "1,000 against 100,000 children about linear (10x slack)",
    ),
    Case(89, "ungrouped (23)", "format_log_1", "rendering for the legacy error_logger, depth limit", LEGACY),
    Case(90, "ungrouped (23)", "format_log_2", "rendering, depth and size limits, single line, nb_children"),
    Case(91, "ungrouped (23)", "already_started_outside_supervisor", "name clash passed back unchanged"),
    Case(92, "ungrouped (23)", "which_children", "which_children and which_child agree through start/terminate/delete"),
    Case(93, "ungrouped (23)", "which_children_simple_one_for_one", "same, dynamic", SIMPLE),
)
