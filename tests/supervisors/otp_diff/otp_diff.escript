#!/usr/bin/env escript
%% Run scenarios on OTP's own supervisor and print what happened, one line each: `N<TAB>event event ...`.
%% Usage: escript otp_diff.escript FILE CONCURRENCY SETTLE_MS; FILE holds `{scenario, N, Tree, Steps}.` terms.
%% Events: +a started, !a start failed, ~a start ignored, -a ended, [..] the tree after a step.
-module(otp_diff).
-mode(compile).
-export([main/1, init/1, start_worker/2, worker/3]).

main([File, Concurrency, SettleMs]) ->
    logger:set_primary_config(level, none),
    {ok, Scenarios} = file:consult(File),
    Self = self(),
    pool(Scenarios, list_to_integer(Concurrency), 0, list_to_integer(SettleMs), Self).

pool([], _, 0, _, _) -> ok;
pool([S | Rest], Free, Running, Settle, Self) when Free > 0 ->
    spawn(fun() -> Self ! {line, run(S, Settle)} end),
    pool(Rest, Free - 1, Running + 1, Settle, Self);
pool(Scenarios, Free, Running, Settle, Self) ->
    receive {line, Line} -> io:put_chars(Line) end,
    pool(Scenarios, Free + 1, Running - 1, Settle, Self).

run({scenario, N, Tree, Steps}, Settle) ->
    process_flag(trap_exit, true),
    Tab = ets:new(t, [public, ordered_set]),
    {First, Rest} = lists:splitwith(fun is_plan/1, Steps),
    [plan(Tab, P) || P <- First],
    case supervisor:start_link(?MODULE, {Tab, Tree}) of
        {ok, Root} ->
            settle(Tab, Root, Settle),
            snapshot(Tab, Root),
            steps(Tab, Root, Rest, Settle),
            stop(Tab, Root);
        {error, _} ->
            log(Tab, "start_failed")
    end,
    Events = [E || {{event, _}, E} <- ets:tab2list(Tab)],
    ets:delete(Tab),
    io_lib:format("~w\t~s~n", [N, lists:join(" ", Events)]).

is_plan({fail, _, _}) -> true;
is_plan({ignore, _, _}) -> true;
is_plan(_) -> false.

plan(Tab, {Kind, Id, Times}) -> ets:insert(Tab, {{Kind, Id}, Times}).

steps(_, _, [], _) -> ok;
steps(Tab, Root, [Step | Rest], Settle) ->
    step(Tab, Step),
    settle(Tab, Root, Settle),
    case is_process_alive(Root) of
        true -> snapshot(Tab, Root), steps(Tab, Root, Rest, Settle);
        false -> ok
    end.

step(Tab, {exit, Id, Reason}) ->
    case ets:lookup(Tab, {pid, Id}) of
        [{_, Pid}] ->
            Ref = monitor(process, Pid),
            Pid ! {exit, Reason},
            receive {'DOWN', Ref, process, _, _} -> ok end;
        [] -> ok
    end;
step(_, {wait, Ms}) -> timer:sleep(Ms);
step(Tab, {terminate, Sup, Id}) -> admin(Tab, Sup, fun(P) -> supervisor:terminate_child(P, Id) end);
step(Tab, {restart, Sup, Id}) -> admin(Tab, Sup, fun(P) -> supervisor:restart_child(P, Id) end);
step(Tab, {delete, Sup, Id}) -> admin(Tab, Sup, fun(P) -> supervisor:delete_child(P, Id) end);
step(Tab, {start, Sup, Spec}) -> admin(Tab, Sup, fun(P) -> supervisor:start_child(P, spec(Tab, Spec)) end);
step(Tab, Plan) -> plan(Tab, Plan).

admin(Tab, Sup, Call) ->
    Answer = case ets:lookup(Tab, {sup, Sup}) of
        [{_, Pid}] -> try Call(Pid) catch exit:_ -> {error, noproc} end;
        [] -> {error, noproc}
    end,
    log(Tab, ["=", word(Answer)]).

word(ok) -> "ok";
word({ok, undefined}) -> "ignored";
word({ok, _}) -> "ok";
word({error, {already_started, _}}) -> "already_started";
word({error, Word}) when is_atom(Word), Word =/= boom -> atom_to_list(Word);
word({error, _}) -> "start_failed".

stop(Tab, Root) ->
    case is_process_alive(Root) of
        false -> log(Tab, "root_down");
        true ->
            exit(Root, shutdown),
            receive {'EXIT', Root, _} -> log(Tab, "stopped") end
    end.

%% Settled: nothing new in the trace and nobody restarting, three looks in a row.
settle(Tab, Root, Ms) -> settle(Tab, Root, Ms, none, 0).
settle(_, _, _, _, 3) -> ok;
settle(Tab, Root, Ms, Before, Same) ->
    timer:sleep(Ms),
    Now = {ets:select_count(Tab, [{{{event, '_'}, '_'}, [], [true]}]), shape(Root)},
    Busy = string:find(element(2, Now), "restarting") =/= nomatch,
    if Now =:= Before, not Busy -> settle(Tab, Root, Ms, Now, Same + 1);
       true -> settle(Tab, Root, Ms, Now, 0)
    end.

snapshot(Tab, Root) -> log(Tab, ["[", shape(Root), "]"]).

shape(Sup) ->
    try supervisor:which_children(Sup) of
        Children -> lists:flatten(lists:join(",", [one(C) || C <- lists:reverse(Children)]))
    catch exit:_ -> "gone"
    end.

one({Id, restarting, _, _}) -> [atom_to_list(Id), ":restarting"];
one({Id, undefined, _, _}) -> [atom_to_list(Id), ":idle"];
one({Id, Pid, supervisor, _}) -> [atom_to_list(Id), "(", shape(Pid), ")"];
one({Id, _, worker, _}) -> atom_to_list(Id).

init({Tab, {sup, Id, Strategy, Intensity, Period, Auto, _, _, Children}}) ->
    ets:insert(Tab, {{sup, Id}, self()}),
    Flags = #{strategy => Strategy, intensity => Intensity, period => Period, auto_shutdown => Auto},
    {ok, {Flags, [spec(Tab, C) || C <- Children]}}.

spec(Tab, {work, Id, Restart, Significant}) ->
    #{id => Id, start => {?MODULE, start_worker, [Tab, Id]}, restart => Restart, significant => Significant};
spec(Tab, {sup, Id, _, _, _, _, Restart, Significant, _} = Sup) ->
    #{id => Id, start => {supervisor, start_link, [?MODULE, {Tab, Sup}]}, restart => Restart,
      significant => Significant, type => supervisor, shutdown => infinity}.

start_worker(Tab, Id) ->
    case {take(Tab, {fail, Id}), take(Tab, {ignore, Id})} of
        {true, _} -> log(Tab, ["!", atom_to_list(Id)]), {error, boom};
        {_, true} -> log(Tab, ["~", atom_to_list(Id)]), ignore;
        _ -> log(Tab, ["+", atom_to_list(Id)]), proc_lib:start_link(?MODULE, worker, [Tab, Id, self()])
    end.

take(Tab, Key) ->
    case ets:lookup(Tab, Key) of
        [{_, Times}] when Times > 0 -> ets:insert(Tab, {Key, Times - 1}), true;
        _ -> false
    end.

worker(Tab, Id, Parent) ->
    process_flag(trap_exit, true),
    ets:insert(Tab, {{pid, Id}, self()}),
    proc_lib:init_ack(Parent, {ok, self()}),
    receive
        {exit, Reason} -> finish(Tab, Id, Reason);
        {'EXIT', _, Reason} -> finish(Tab, Id, Reason)
    end.

finish(Tab, Id, Reason) ->
    ets:delete(Tab, {pid, Id}),
    log(Tab, ["-", atom_to_list(Id)]),
    exit(Reason).

log(Tab, Text) ->
    ets:insert(Tab, {{event, erlang:unique_integer([monotonic])}, lists:flatten(Text)}).
