"""The guards that nothing may be sent without, each with a change that takes it away and the test that must notice."""

from __future__ import annotations

from dataclasses import dataclass

_TRANSITIONS = "tests/store/test_transitions.py"
_STALE_OWNER = f"{_TRANSITIONS}::TestMatrix::test_a_stale_owner_is_refused_and_writes_nothing"


@dataclass(frozen=True, slots=True)
class Control:
    """In `file`, `before` becomes `after`: without the guard, `test` must fail."""

    guard: str
    file: str
    before: str
    after: str
    test: str
    quick: bool = False  # runs in `make test` too


CONTROLS = (
    Control(
        "nothing but a regular file is opened to be read",
        "postroom/plainfile.py",
        '    _check(path, path.stat().st_mode)\n    with os.fdopen(os.open(path, _FLAGS), "rb") as file:\n',
        '    with path.open("rb") as file:\n',
        "tests/unit/test_plainfile.py::test_dot_env_is_refused[null]",
    ),
    Control(
        "a file is read up to a bound",
        "postroom/plainfile.py",
        "    if len(content) > most:\n",
        "    if False:\n",
        "tests/unit/test_plainfile.py::test_what_is_larger_than_the_bound_is_refused",
    ),
    Control(
        "a line of a stream is written once",
        "postroom/emaillog.py",
        "            self._streamed = batch.id, at\n",
        "            pass\n",
        "tests/store/test_logstream.py::test_a_reader_that_stands_still_gets_each_line_once[sqlite]",
    ),
    Control(
        "standard output is written through its own descriptor",
        "postroom/logstream.py",
        "    own = _own_descriptor(path)\n",
        "    own = None\n",
        "tests/store/test_logstream.py::test_standard_output_is_written_through_its_own_descriptor"
        "[sqlite-/dev/fd/1-stream socket]",
    ),
    Control(
        "a key that was used before is not refused for what others do",
        "postroom/web/limits.py",
        "        key = _readable_key(call)\n        if key is None or",
        "        key = None\n        if key is None or",
        "tests/http/test_limits.py::test_a_key_that_was_used_before_is_not_refused_for_what_others_do[memory]",
    ),
    Control(
        "a right key that was never used is refused like a wrong one",
        "postroom/web/limits.py",
        "        if not may_refuse or window is None or not window.exceeded:\n",
        "        if True:\n",
        "tests/http/test_limits.py::test_guesses_from_one_address_are_slowed_down[memory]",
    ),
    Control(
        "guesses are counted by what one client has all of",
        "postroom/web/call.py",
        "        return source_of(self.address)\n",
        "        return self.address\n",
        "tests/http/test_limits.py::test_guesses_of_a_whole_ipv6_network_are_counted_together",
    ),
    Control(
        "guesses that arrive together get no more than their share",
        "postroom/web/limits.py",
        "                if window is not None and window.exceeded and not self._is_used(call):\n",
        "                if False and window is not None:\n",
        "tests/http/test_limits.py::test_guesses_that_arrive_together_get_no_more_than_their_share",
    ),
    Control(
        "an idle account takes in no large message beyond the memory that all share",
        "postroom/worker/__init__.py",
        "                first_bytes=share.first_bytes,\n",
        "",
        "tests/process/test_delivery.py::test_large_messages_wait_for_memory_that_all_accounts_share",
    ),
    Control(
        "nothing of an answered request lives on",
        "postroom/web/call.py",
        "        return cls(environ, populate_request=False)\n",
        "        return cls(environ)\n",
        "tests/http/test_let_go.py::test_nothing_of_a_request_lives_on",
    ),
    Control(
        "nor of one whose commit has failed",
        "postroom/web/errors.py",
        "    forget_frames(error)\n",
        "",
        "tests/http/test_let_go.py::test_nor_when_the_commit_fails[surprise]",
    ),
    Control(
        "a password in a server's reply is struck",
        "postroom/wire.py",
        "        return self.credentials.strike_reply(reply, verb) if self.credentials else reply\n",
        "        return reply\n",
        "tests/smtp/test_credentials.py::test_a_refusal_that_repeats_the_log_in_is_shown_by_its_code[PLAIN response]",
    ),
    Control(
        "a process with another secret key changes nothing",
        "postroom/setup.py",
        "    if not stored.is_empty and not _is_secret_of(stored, vault, settings):\n",
        "    if False:\n",
        "tests/process/test_secret.py::test_another_secret_ends_with_78_and_changes_nothing[accounts]",
    ),
    Control(
        "a password that cannot be decrypted makes its messages wait",
        "postroom/status.py",
        "        return Deferred(reason, Blame.ACCOUNT, burns_attempt=False, meaning=Meaning.ACCOUNT)\n",
        "        return Failed(reason, Blame.ACCOUNT)\n",
        "tests/process/test_secret.py::test_a_password_that_cannot_be_decrypted_makes_its_messages_wait",
    ),
    Control(
        "every commit is flushed to the disk",
        "postroom/store/sqlite.py",
        '"PRAGMA synchronous = FULL"',
        '"PRAGMA synchronous = OFF"',
        "tests/store/test_committer.py::TestProcesses::test_flush_the_log_before_a_write_returns[sqlite]",
        quick=True,
    ),
    Control(
        "202 is answered after the commit",
        "postroom/accept.py",
        """    outcome: Accepted | IdempotencyClash = (write or store.write)(
        lambda transaction: transaction.accept(message)
    )
""",
        """    import threading

    outcome = Accepted(message.request_id)
    threading.Thread(target=store.write, args=(lambda transaction: transaction.accept(message),)).start()
""",
        "tests/http/test_send_email.py::test_a_locked_database_is_a_503_and_nothing_is_accepted",
    ),
    Control(
        "an account's pace is kept at each claim",
        "postroom/store/transaction.py",
        "return self._count_by_pace(account_id, most, now) if paced else most",
        "return most",
        "tests/store/test_pace.py::TestPace::test_lets_one_message_go_in_each_gap_over_all_workers[sqlite]",
    ),
    Control(
        "what was tried together halves the pace once",
        "postroom/pace.py",
        "    if tried_at < pace.slowed_at:\n        return pace\n",
        "",
        "tests/store/test_pace.py::TestPace::test_is_halved_once_by_what_was_tried_together[sqlite]",
    ),
    Control(
        "another message tries than the one that drew the refusal",
        "postroom/store/transaction.py",
        "            if result.drew:\n",
        "            if False:\n",
        "tests/store/test_pace.py::TestTheMessageThatDrewARefusal::test_is_not_the_next_to_be_tried[sqlite]",
    ),
    Control(
        "a provider's advice is given at that provider",
        "postroom/replies.py",
        'row.fix if row.provider in (None, provider) else ""',
        "row.fix",
        "tests/unit/test_replies.py::test_a_providers_advice_is_given_at_that_provider_only",
    ),
    Control(
        "connections that work go on when a log-in is refused for its number",
        "postroom/worker/lane.py",
        "        if others and is_passing(outcome):\n",
        "        if others and not is_account_fault(outcome):\n",
        "tests/process/test_lane.py::test_connections_that_work_go_on_whatever_keeps_another_from_being_opened"
        "[AUTH-454 4.7.0 Too many login attempts, please try again later.]",
    ),
    Control(
        "a server that has no place for an account costs no try",
        "postroom/worker/lane.py",
        "        if is_full(outcome):\n",
        "        if False:\n",
        "tests/process/test_lane.py::test_an_account_that_finds_no_place_at_its_server_waits_for_one_uncounted"
        "[GREETING-421 Too many concurrent SMTP connections; please try again later.-True]",
    ),
    Control(
        "the dot mark is awaited before the dot leaves",
        "postroom/smtp.py",
        '        await before_dot()\n        passing("send.marked")\n        return not',
        '        passing("send.marked")\n        return not',
        "tests/smtp/test_transaction.py::test_the_mark_comes_after_the_body_and_before_the_dot",
        quick=True,
    ),
    Control(
        "the dot mark is committed",
        "postroom/worker/lane.py",
        "            await context.seam.submit(lambda transaction: transaction.mark_dot(job, context.clock()))\n",
        "",
        "tests/process/test_killpoints.py::test_a_kill_at[sqlite-send.replied]",
    ),
    Control(
        "the dot mark asks for the claim token",
        "postroom/store/queries.sql",
        "UPDATE job SET dot_at = :now WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;",
        "UPDATE job SET dot_at = :now WHERE id = :job_id AND state = 'claimed';",
        f"{_STALE_OWNER}[sqlite-False-mark_dot]",
        quick=True,
    ),
    Control(
        "the end of a plain mail asks for the claim token",
        "postroom/store/sqlite.sql",
        "FROM job WHERE id = :job_id AND state = 'claimed' AND claim_token = :token\nRETURNING job_id;",
        "FROM job WHERE id = :job_id AND state = 'claimed'\nRETURNING job_id;",
        f"{_STALE_OWNER}[sqlite-False-finish sent]",
    ),
    Control(
        "the end of any other mail asks for the claim token",
        "postroom/store/queries.sql",
        """UPDATE job SET state = :state, finished_at = :now,
               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;""",
        """UPDATE job SET state = :state, finished_at = :now,
               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed';""",
        f"{_STALE_OWNER}[sqlite-False-finish failed]",
    ),
    Control(
        "the way back to the queue asks for the claim token",
        "postroom/store/queries.sql",
        """               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;

-- name: waits_too_long$""",
        """               claim_token = NULL, claimed_by = NULL, claimed_at = NULL, dot_at = NULL
WHERE id = :job_id AND state = 'claimed';

-- name: waits_too_long$""",
        f"{_STALE_OWNER}[sqlite-False-finish deferred]",
    ),
    Control(
        "a worker that renewed its lease meanwhile is not buried",
        "postroom/store/queries.sql",
        "WHERE id = :worker_id AND gone_at IS NULL AND lease_until = coalesce(:lease, lease_until);",
        "WHERE id = :worker_id AND gone_at IS NULL;",
        f"{_TRANSITIONS}::TestBurial::test_for_a_lease_that_ran_out_needs_it_not_to_be_renewed_meanwhile[sqlite]",
    ),
    Control(
        "a worker that was buried cannot renew its lease",
        "postroom/store/queries.sql",
        "UPDATE worker SET lease_until = :lease_until WHERE id = :worker_id AND gone_at IS NULL;",
        "UPDATE worker SET lease_until = :lease_until WHERE id = :worker_id;",
        f"{_TRANSITIONS}::TestBurial::test_ends_the_lease[sqlite]",
    ),
    Control(
        "a message that workers die with is set aside",
        "postroom/store/transaction.py",
        "            poisoned = crashes + 1 >= MOST_CRASHES\n",
        "            poisoned = False\n",
        "tests/store/test_poison.py::TestAPoisonMessage::test_is_held_after_three_deaths_and_its_neighbours_are_sent[sqlite]",
    ),
    Control(
        "an idempotency key that was used accepts nothing",
        "postroom/store/transaction.py",
        "                while not is_new:\n",
        "                while False:\n",
        f"{_TRANSITIONS}::TestIdempotency::test_same_key_and_request_is_replayed[sqlite]",
    ),
    Control(
        "an idempotency key that was used undoes its batch on PostgreSQL",
        "postroom/store/transaction.py",
        "                self._must(is_new)  # one that was used is rare: all are run again, knowing at once\n",
        "                pass\n",
        f"{_TRANSITIONS}::TestIdempotency::test_in_a_batch_of_others_costs_none_of_them[postgres]",
    ),
    Control(
        "a claim reserves its recipients of the daily limit",
        "postroom/store/transaction.py",
        "            recipients = sum(len(job.deliveries) for job in jobs)\n",
        "            recipients = 0\n",
        "tests/store/test_daily_limit.py::TestALimit::test_holds_against_racing_workers[sqlite]",
    ),
    Control(
        "an account has no more connections than it may",
        "postroom/store/queries.sql",
        "WHERE (SELECT count(*) FROM connection WHERE account_id = :account_id) < :most\n",
        "",
        "tests/store/test_connections.py::TestConnections::test_are_no_more_than_the_account_may_have[sqlite]",
    ),
    Control(
        "one writer at a time has the database",
        "postroom/store/writerlock.py",
        "            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            pass\n",
        "tests/store/test_writerlock.py::test_two_are_never_inside_however_hasty_they_are",
    ),
    Control(
        "a writer that has given up is not handed the lock",
        "postroom/store/writerlock.py",
        "                if self._wanted:\n",
        "                if True:\n",
        "tests/store/test_writerlock.py::test_who_waits_in_vain_is_told_and_holds_nobody_up_later",
    ),
    Control(
        "a write-ahead log that was taken away is missed",
        "postroom/store/sqlite.py",
        "        self._refuse_without_log()\n",
        "",
        "tests/process/test_disk.py::test_a_write_ahead_log_that_was_taken_away_is_missed",
    ),
    Control(
        "a database file that was replaced while it is open takes nothing more",
        "postroom/store/files.py",
        "            if (found.st_dev, found.st_ino) != self._known[name]:\n                raise",
        "            if False:\n                raise",
        "tests/store/test_files.py::test_nothing_is_accepted_after[move_a_backup_over]",
        quick=True,
    ),
    Control(
        "a move during a commit is noticed before the answer",
        "postroom/store/sqlite.py",
        "                self._check_files(error=ReplacedSinceCommit)  # before anybody is told\n",
        "",
        "tests/store/test_files.py::test_a_move_during_a_commit_is_noticed_before_the_answer",
    ),
    Control(
        "content that was altered is not sent",
        "postroom/store/transaction.py",
        "    if content != checksum:\n",
        "    if False:\n",
        f"{_TRANSITIONS}::TestContent::test_that_the_disk_has_altered_is_never_handed_out[sqlite]",
    ),
    Control(
        "an envelope that was altered is not sent",
        "postroom/store/transaction.py",
        "_envelope_checksum(reverse_path, path, content) != accepted\n",
        "False\n",
        f"{_TRANSITIONS}::TestEnvelope::test_whose_recipient_was_altered[sqlite]",
    ),
    Control(
        "processes that one has forked leave marks of their own",
        "postroom/store/postgres.py",
        "os.register_at_fork(after_in_child=_marks.seed)",
        "",
        "tests/store/test_postgres.py::test_processes_that_one_has_forked_commit_like_any_others[postgres]",
    ),
    Control(
        "a session whose pipeline failed is not used again",
        "postroom/store/postgres.py",
        'connection.execute("ROLLBACK", prepare=False)\n        connection.close()\n',
        'connection.execute("ROLLBACK", prepare=False)\n        self._writer = connection\n',
        "tests/store/test_sessions.py::TestAWriter::test_whose_pipeline_failed_as_its_statements_were_prepared_is_replaced[postgres-1]",
    ),
    Control(
        "every session is told to be durable",
        "postroom/store/pg_connect.py",
        "        if not self.bouncer:\n            self.check_settings",
        "        if False:\n            self.check_settings",
        "tests/store/test_pg_connect.py::TestSettings::test_that_are_on_are_set_too_so_that_a_reload_does_not_switch_them_off[postgres]",
    ),
    Control(
        "every transaction behind a bouncer is told to be durable",
        "postroom/store/postgres.py",
        "        if self._bouncer:  # there are no sessions that could have the settings\n",
        "        if False:\n",
        "tests/store/test_pg_connect.py::TestSettings::test_are_set_in_each_transaction_behind_a_bouncer[postgres]",
    ),
    Control(
        "what only the database has as a worker's own is given back",
        "postroom/worker/liveness.py",
        "        return self._give_back(found) if found else 0\n",
        "        return 0\n",
        "tests/store/test_stocktaking.py::test_a_dot_mark_that_the_database_has_is_doubt_enough[sqlite]",
    ),
    Control(
        "a server on a lower timeline is refused",
        "postroom/store/pg_connect.py",
        "        elif found.system != before.system or found.timeline < before.timeline:\n",
        "        elif False:\n",
        "tests/store/test_position.py::TestAServer::test_that_is_behind_is_not_used_while_we_run[postgres]",
    ),
    Control(
        "a server that has become read-only is found out by a trial write",
        "postroom/store/postgres.py",
        '            self._queries.write_setting(_Session(connection, self._queries), name="tried", value="")\n',
        "            pass\n",
        "tests/store/test_postgres.py::TestAServerThatGoes::test_comes_back_read_only_is_found_not_to_be_writable[postgres]",
    ),
    Control(
        "a stop turns the readiness of all web processes",
        "postroom/serve.py",
        "            _stopping[0] = 1\n",
        "            pass\n",
        "tests/process/test_signals.py::test_a_stop_turns_readiness_before_the_listener_closes",
    ),
    Control(
        "the database waits for a large message to arrive",
        "postroom/store/postgres.py",
        "        self.connection.execute(_PATIENCE)\n",
        "        pass\n",
        "tests/store/test_postgres.py::TestASlowLink::test_takes_a_large_message[postgres-one by one]",
    ),
    Control(
        "the time for the database's answer runs from the last octet sent",
        "postroom/store/pg_connect.py",
        "                left = 0 if ready else self._unsent()\n",
        "                left = 0\n",
        "tests/store/test_postgres.py::TestASlowLink::test_takes_a_large_message[postgres-in a batch]",
    ),
    Control(
        "what the driver still holds is sent while it waits for answers",
        "postroom/store/pg_connect.py",
        "            return self.pgconn.flush() != 0\n",
        "            return False\n",
        "tests/store/test_postgres.py::TestASlowLink::test_takes_a_message_that_the_kernel_does_not_hold_at_once[postgres-6000000]",
    ),
    Control(
        "every read behind a bouncer has what we rely on",
        "postroom/store/postgres.py",
        "                        if self._bouncer:  # the pool ends what is begun here\n",
        "                        if False:\n",
        "tests/store/test_pg_connect.py::TestSettings::test_of_the_database_are_overruled_in_each_session[postgres-True]",
    ),
    Control(
        "a server's refusal repeats no value of the URL",
        "postroom/store/pg_connect.py",
        "            yield value\n",
        "            pass\n",
        "tests/store/test_pg_connect.py::test_no_value_of_the_url_is_repeated_by_a_refusal[True-application_name={}]",
    ),
    Control(
        "the time for which the loop stood still does not count against another server",
        "postroom/web/hub.py",
        "            if late > _STALLED_S:",
        "            if late > 3600:",
        "tests/http/test_answers_in_time.py::test_an_answer_that_came_while_the_loop_stood_still_is_taken",
    ),
    Control(
        "a limiter's replicas are not read from",
        "postroom/web/throttle.py",
        '"use_replicas": False',
        '"use_replicas": True',
        "tests/http/test_limits.py::test_a_sentinels_replicas_are_not_asked",
    ),
    Control(
        "a limiter of many servers holds up a request no longer than one",
        "postroom/web/throttle.py",
        "together(self._answer, _PATIENCE_S)",
        "together(self._answer, 600)",
        "tests/http/test_limits.py::test_many_servers_that_do_not_answer_hold_up_a_request_no_longer_than_one[redis+sentinel://u:{}@{}/limits]",
    ),
    Control(
        "a signal that comes while a worker is forked is kept until the worker heeds it",
        "postroom/serve.py",
        "before=block, after_in_parent=unblock, ",
        "",
        "tests/unit/test_serve.py::test_a_signal_that_comes_while_a_worker_is_forked_ends_it",
    ),
    Control(
        "a stop keeps the listener open for a while",
        "postroom/serve.py",
        "        if self.is_noted_here or not self._delay_s:\n",
        "        if True:\n",
        "tests/process/test_signals.py::test_a_stop_turns_readiness_before_the_listener_closes",
    ),
    Control(
        "what is accepted passes the byte gate",
        "postroom/accept.py",
        "    gate(message.mime, smtputf8=message.smtputf8)\n",
        "",
        "tests/unit/test_accept.py::TestRefusal::test_of_unsafe_bytes_whoever_made_them",
    ),
    Control(
        "a dot that starts a line is doubled",
        "postroom/smtp.py",
        "        text = dot_stuff(mime)\n",
        "        text = mime\n",
        "tests/smtp/test_transaction.py::test_what_arrives_is_what_was_given",
    ),
    Control(
        "a reply that nobody asked for never pairs with a command",
        "postroom/session.py",
        "        if self._wire.has_unread:\n            raise self._out_of_turn(verb,",
        "        if False:\n            raise self._out_of_turn(verb,",
        "tests/smtp/test_transaction.py::test_a_reply_between_transactions[250 2.0.0 again]",
    ),
    Control(
        "a connection that anything went wrong on is closed",
        "postroom/smtp.py",
        "            transcript.fault = fault\n            self._wire.abort()\n",
        "            transcript.fault = fault\n",
        "tests/smtp/test_transaction.py::test_421_ends_the_connection_at_any_verb",
    ),
    Control(
        "a message that leaves in one write is marked before",
        "postroom/smtp.py",
        """        await self._expect_silence("MAIL")
        await before_dot()
""",
        """        await self._expect_silence("MAIL")
""",
        "tests/smtp/test_groups.py::test_a_message_leaves_in_one_write_after_its_mark",
    ),
    Control(
        "a break of a message that leaves in one write is a doubt",
        "postroom/smtp.py",
        """        transcript.dot_sent = True
        chunk =""",
        """        chunk =""",
        "tests/smtp/test_groups.py::test_what_may_go_wrong[MAIL drop]",
    ),
    Control(
        "what a server does not take in a group is asked again",
        "postroom/smtp.py",
        "        if reply is None or reply.code not in _NOT_TAKEN or self.traits.is_believed:",
        "        if reply is not None or self.traits.is_believed:",
        "tests/smtp/test_groups.py::test_what_was_sent_ahead_is_asked_again_one_at_a_time[REFUSE-data]",
    ),
    Control(
        "a server's first chunk is not the last",
        "postroom/smtp.py",
        "        if not self._chunks or self.traits.took_chunks:",
        "        if self._transactions:",
        "tests/smtp/test_groups.py::test_a_chunk_that_is_not_taken_leaves_no_doubt[CHUNKING PIPELINING-drop]",
    ),
    Control(
        "a refusal of MAIL after other messages is the connection's",
        "postroom/deliver.py",
        "    if not transcript.carried or mail is None or mail.positive:",
        "    if not transcript.carried or mail is not None:",
        "tests/smtp/test_groups.py::test_a_refusal_of_mail_after_other_messages_is_the_connections[data-452]",
    ),
    Control(
        "a mark that is taken back asks for the claim token",
        "postroom/store/queries.sql",
        "UPDATE job SET dot_at = NULL WHERE id = :job_id AND state = 'claimed' AND claim_token = :token;",
        "UPDATE job SET dot_at = NULL WHERE id = :job_id AND state = 'claimed';",
        f"{_STALE_OWNER}[sqlite-False-unmark_dot]",
    ),
    Control(
        "the password is no answer to a prompt for the user name",
        "postroom/session.py",
        "            if asked is not None and asked not in left:",
        "            asked = asked if asked in left else None\n            if asked in ():",
        "tests/smtp/test_login.py::test_the_password_is_no_answer_to_a_second_prompt_for_the_name",
    ),
    Control(
        "a server that leaves out AUTH is asked why",
        "postroom/session.py",
        "            await self._expect_service()\n            self._expect_no_login()",
        "            self._expect_no_login()",
        "tests/smtp/test_login.py::test_a_server_that_turns_the_connection_away_says_so_to_every_command"
        "[log-in-tls-busy]",
    ),
    Control(
        "plain text before TLS is an attack",
        "postroom/wire.py",
        "        if self.has_unread:\n",
        "        if False:\n",
        "tests/smtp/test_session.py::test_plain_text_injected_after_220[uvloop-235 2.7.0 welcome]",
    ),
    Control(
        "the certificate is verified",
        "postroom/session.py",
        "    context = ssl.create_default_context(cafile=ca_file)\n",
        "    context = ssl._create_unverified_context(cafile=ca_file)\n",
        "tests/smtp/test_session.py::test_our_context_trusts_a_ca_file_and_nothing_below_tls_1_2[uvloop]",
    ),
    Control(
        "a body that ends before its Content-Length is not accepted",
        "postroom/web/upload.py",
        "if self.length is not None and self.received != self.length:",
        "if self.length is not None and self.received > self.length:",
        "tests/process/test_http_wire.py::test_what_was_cut_off_is_not_accepted[length, large]",
    ),
    Control(
        "a body that ends before its last chunk is not accepted",
        "postroom/web/upload.py",
        "if self.length is None and self._empty_pieces != 1:",
        "if self.length is None and self._empty_pieces > 2:",
        "tests/process/test_http_wire.py::test_what_was_cut_off_is_not_accepted[no last chunk]",
    ),
    Control(
        "the rest of a body is read after an early answer",
        "postroom/web/gateway.py",
        "            await upload.linger()\n",
        "            pass\n",
        "tests/process/test_http_wire.py::test_a_413_is_read_after_everything_was_sent",
    ),
    Control(
        "a commit that nobody waits for any more is not made",
        "postroom/web/hub.py",
        "        if self._is_given_up:\n",
        "        if False:\n",
        "tests/http/test_answers_in_time.py::test_work_that_was_given_up_does_not_begin",
    ),
    Control(
        "a request is answered before a proxy gives it up",
        "postroom/web/hub.py",
        "        seconds = answer_by - self._loop.time()\n",
        "        seconds = 3600.0\n",
        "tests/http/test_answers_in_time.py::test_a_commit_that_waits_for_too_long_is_not_made[False]",
    ),
    Control(
        "uploads that stand still take no slot",
        "postroom/web/gateway.py",
        "        with self._room.place() as place:\n",
        "        with self._room.place() as place:\n            await self._slot()\n",
        "tests/process/test_http_wire.py::test_uploads_that_stand_still_hold_up_nobody",
    ),
    Control(
        "a password goes to no server that nobody has named",
        "postroom/providers.py",
        "        raise ServerUndecided(domain_of(account))\n",
        "        return _GMAIL\n",
        "tests/unit/test_providers.py::TestNobodyNamedIt::test_is_no_reason_to_send_a_password_anywhere",
    ),
    Control(
        "a filter in front of the mailboxes tells nothing of their server",
        "postroom/providers.py",
        "first.pop() if len(first) == 1 and len(known) == 1 else None",
        "next(iter(known), None)",
        "tests/unit/test_providers.py::test_the_exchangers_tell_whose_the_mailboxes_are",
    ),
    Control(
        "an account that has worked keeps its server",
        "postroom/providers.py",
        "    return by_exchangers if account.worked_with is None else account.worked_with or _GMAIL.host\n",
        "    return by_exchangers\n",
        "tests/unit/test_providers.py::TestNobodyNamedIt::test_what_an_account_has_worked_with_stays[None]",
    ),
    Control(
        "the wait after the dot has a deadline of its own",
        "postroom/session.py",
        '("connect", "greeting", "command", "data", "block", "quit")',
        '("connect", "greeting", "command", "data", "block", "quit", "dot")',
        "tests/smtp/test_greeting.py::test_one_cap_leaves_the_wait_after_the_dot_alone",
    ),
    Control(
        "no loopback address is said to a server elsewhere",
        "postroom/ownname.py",
        "    if not is_loopback(host) and (ip is None or is_loopback(ip)):\n",
        "    if ip is None:\n",
        "tests/smtp/test_greeting.py::test_no_loopback_address_is_said_to_a_server_elsewhere",
    ),
    Control(
        "accounts check tries no password that was refused",
        "postroom/cli/check.py",
        "    if store.refused_password(account.id) in digests:\n",
        "    if False:\n",
        "tests/process/test_accounts_check.py::test_a_refused_password_is_not_tried_again_before_it_changes",
    ),
    Control(
        "accounts check keeps to the account's pace",
        "postroom/cli/check.py",
        "            logins_per_minute=logins_per_minute if has_login else None,\n",
        "            logins_per_minute=None,\n",
        "tests/process/test_accounts_check.py::test_log_ins_keep_to_the_pace_that_all_share",
    ),
    Control(
        "accounts check takes nothing in from data.csv",
        "postroom/cli/accounts.py",
        "        results = asyncio.run(check_all(service, accounts_in_use(service, mailbox)))\n",
        "        setup.read_accounts_file(service)\n"
        "        results = asyncio.run(check_all(service, accounts_in_use(service, mailbox)))\n",
        "tests/process/test_accounts_check.py::test_a_refused_password_is_not_tried_again_before_it_changes",
    ),
    Control(
        "what is undone is not counted",
        "postroom/store/postgres.py",
        "                transaction.accepted = accepted\n",
        "",
        "tests/store/test_lists.py::test_counts_of_a_batch_are_those_of_its_works[postgres]",
    ),
    Control(
        "the beginning of an id is enough where it is one message's",
        "postroom/cli/__init__.py",
        "    if len(found) > 1:\n",
        "    if False:\n",
        "tests/process/test_cli.py::test_the_beginning_of_an_id_is_enough_where_it_is_the_only_one",
    ),
    Control(
        "what was queued in a backup is held after a restore",
        "postroom/backup.py",
        "        store.write(hold)\n",
        "        assert hold\n",
        "tests/process/test_backup.py::test_a_new_machine_has_everything_and_sends_nothing_by_itself",
    ),
    Control(
        "each finished message has one line",
        "postroom/worker/finished.py",
        "        self._ended.append((job, outcomes))\n",
        "        self._ended[:] = [(job, outcomes)]\n",
        "tests/process/test_operator_log.py::test_the_lines_of_one_commit_are_written_together",
    ),
    Control(
        "GET / answers programs with a problem document",
        "postroom/web/front.py",
        "    return 0 < html >= max(",
        "    return 0 <= html >= max(",
        "tests/http/test_front.py::test_a_program_gets_a_problem_document[curl]",
    ),
    Control(
        "the page has no host that a shell would run",
        "postroom/web/front.py",
        "call.host if _HOST.fullmatch(call.host) else 'YOUR-SERVER'",
        "call.host",
        "tests/http/test_front.py::test_the_command_on_the_page_has_no_host_that_a_shell_would_run",
    ),
)
