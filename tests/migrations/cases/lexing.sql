-- case: 01-backslash-before-a-quote
INSERT INTO flags (key, value) VALUES ('path', 'C:\'); DROP TABLE sessions; INSERT INTO flags (key, value) VALUES ('x', 'x');
-- case: 01-backslash-before-a-quote-innocent
INSERT INTO flags (key, value) VALUES ('path', 'C:\; DROP TABLE sessions; \'), ('x', 'x');
-- case: 02-escape-string-ends-in-backslashes
SELECT E'a\\'; DROP TABLE sessions; SELECT 'b';
-- case: 02-escape-string-with-an-escaped-quote-innocent
SELECT E'a\'; DROP TABLE sessions; SELECT \'b';
-- case: 02-lower-case-escape-string
SELECT e'\\\'' , 'x'; ALTER TABLE users DROP COLUMN bio; SELECT e'\'';
-- case: 03-backslash-in-an-identifier
SELECT 1 AS "a\"; DROP TABLE sessions; SELECT 1 AS "x";
-- case: 03-doubled-quote-in-an-identifier-innocent
SELECT 1 AS "a""; DROP TABLE sessions; SELECT ""x";
-- case: 04-hash-operator
SELECT 5 # 3; DROP TABLE sessions;
-- case: 04-hash-arrow-operators
SELECT '{"a": {"b": 1}}'::jsonb #> '{a,b}', '{"a": 1}'::jsonb #>> '{a}'; ALTER TABLE users DROP COLUMN bio;
-- case: 04-hash-innocent
SELECT 5 # 3; -- # DROP TABLE sessions;
-- case: 05-nested-comment-innocent
/* a /* b */ DROP TABLE sessions; */ SELECT 1;
-- case: 05-nested-comment-that-ends
/* a /* b */ c */ DROP TABLE sessions;
-- case: 05-comment-in-an-operator
SELECT 1 +/* */2; DROP TABLE sessions; SELECT 1 /* x */;
-- case: 05-line-comment-in-a-block-comment
/* -- */ DROP TABLE sessions;
-- case: 05-block-comment-in-a-line-comment
-- /*
DROP TABLE sessions;
-- */
-- case: 06-begin-isolation-level
BEGIN ISOLATION LEVEL SERIALIZABLE; DROP TABLE sessions; COMMIT;
-- case: 06-begin-read-write
BEGIN READ WRITE;
ALTER TABLE users DROP COLUMN bio;
END;
-- case: 06-begin-not-deferrable
BEGIN NOT DEFERRABLE; ALTER TABLE users ALTER COLUMN age TYPE bigint; COMMIT WORK;
-- case: 06-start-transaction
START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE; DROP TABLE sessions; COMMIT TRANSACTION;
-- case: 06-begin-isolation-level-innocent
BEGIN TRANSACTION ISOLATION LEVEL SERIALIZABLE; DROP TABLE sessions; ABORT;
-- case: 06-begin-rolled-back-then-chained
BEGIN; DROP TABLE sessions; ROLLBACK AND CHAIN; ALTER TABLE flags ADD COLUMN x integer; COMMIT;
-- case: 07-column-named-begin
SELECT begin FROM flags; DROP TABLE sessions;
-- case: 07-column-named-declare
UPDATE flags SET declare = declare WHERE begin = 5; ALTER TABLE users DROP COLUMN bio;
-- case: 07-column-named-begin-innocent
CREATE TABLE shifts (begin integer, declare integer); DROP TABLE shifts;
-- case: 08-column-named-go
ALTER TABLE bookings ADD COLUMN
GO
text NOT NULL;
-- case: 08-column-named-go-innocent
ALTER TABLE users ADD COLUMN GO
text DEFAULT 'x' NOT NULL;
-- case: 09-dollar-tag-of-other-letters-innocent
COMMENT ON TABLE users IS $标签$ it's; DROP TABLE sessions; $标签$;
-- case: 09-dollar-tag-of-other-letters
COMMENT ON TABLE users IS $标签$ it's $标签$; DROP TABLE sessions; COMMENT ON TABLE users IS 'x';
-- case: 09-dollar-tag-inside-another
COMMENT ON TABLE users IS $a$ $b$ $a$; DROP TABLE sessions; COMMENT ON TABLE users IS $b$ x $b$;
-- case: 09-dollar-in-an-identifier
CREATE TABLE a$b$ (c$ integer); DROP TABLE sessions; DROP TABLE a$b$;
-- case: 09-dollar-quote-with-tag-case
COMMENT ON TABLE users IS $Tag$ $tag$; DROP TABLE sessions; $tag$ $Tag$;
-- case: 10-bracket-with-a-dollar-string
SELECT ARRAY [ 'a', $$]$$ ]; DROP TABLE sessions;
-- case: 10-backtick-operator
CREATE OPERATOR ` (LEFTARG = text, RIGHTARG = text, FUNCTION = similar_to);
SELECT 'a' ` 'b'; DROP TABLE sessions; SELECT 'a' ` 'b';
-- case: 10-bracket-innocent
SELECT ARRAY [ 'DROP TABLE sessions;', $$]; DROP TABLE sessions;$$ ];
-- case: 10-array-slice
UPDATE tracks SET tags = tags [ 1 : 2 ] WHERE id = 2; ALTER TABLE users DROP COLUMN bio;
-- case: 11-copy-data-with-an-apostrophe
COPY flags (key, value) FROM stdin;
a	don't
\.
DROP TABLE sessions;
SELECT 'x';
-- case: 11-copy-data-innocent
COPY flags (key, value) FROM stdin WITH (DELIMITER ',');
a,'; DROP TABLE sessions;
b,$$
\.
SELECT 1;
-- case: 12-meta-command-set
\set x on
ALTER TABLE users DROP COLUMN bio;
-- case: 12-meta-command-echo-with-an-apostrophe
\echo its "name
DROP TABLE sessions;
-- case: 12-meta-command-innocent
\echo 'DROP TABLE sessions;'
\set ON_ERROR_STOP on
SELECT 1;
-- case: 12-meta-command-after-a-statement
SELECT 1; \echo done
DROP TABLE sessions;
-- case: 13-byte-order-mark
-- bytes: bom
DROP TABLE sessions;
-- case: 13-byte-order-mark-innocent
-- bytes: bom
CREATE TABLE shelves (id integer);
-- case: 14-carriage-returns
-- bytes: crlf
-- a comment
ALTER TABLE users
    DROP COLUMN bio;
-- case: 14-carriage-returns-innocent
-- bytes: crlf
-- DROP TABLE sessions;
COMMENT ON TABLE users IS '
DROP TABLE sessions;
';
-- case: 15-string-continued-on-the-next-line
SELECT 'a'
'; DROP TABLE sessions; --'
'b';
-- case: 15-string-over-lines-then-a-drop
SELECT 'a
-- b
'; DROP TABLE sessions;
-- case: 16-keyword-before-a-parenthesis
ALTER TABLE bookings ADD CHECK(id > 5), ADD COLUMN x integer;
-- case: 16-union-all-then-drop
SELECT 1 UNION ALL(SELECT 2); DROP TABLE sessions;
-- case: 16-type-like-column-in-parentheses-innocent
CREATE TABLE words (type text, "drop" text, check_ integer CHECK(check_ > 0)); ALTER TABLE words ADD CHECK(type <> '');
-- case: 17-column-named-key-and-date
ALTER TABLE flags DROP COLUMN date;
-- case: 17-column-named-data-innocent
ALTER TABLE users ADD COLUMN data jsonb, ADD COLUMN date date, ADD COLUMN key text, ADD COLUMN type text, ADD position integer;
-- case: 17-column-named-column-type
ALTER TABLE flags ALTER value TYPE varchar(9);
-- case: 18-no-break-space-in-an-identifier-innocent
ALTER TABLE users ADD COLUMN not null text;
-- case: 18-form-feed
ALTER TABLE	users
DROP COLUMN bio;
-- case: 19-unicode-identifier
DROP TABLE U&"sess\0069ons";
-- case: 19-unicode-identifier-uescape
ALTER TABLE U&"us!0065rs" UESCAPE '!' DROP COLUMN bio;
-- case: 19-unicode-identifier-of-a-new-table
CREATE TABLE U&"shelv\0065s" (id integer NOT NULL);
DROP TABLE shelves;
-- case: 19-bit-and-national-strings
SELECT B'101', X'1FF', N'; DROP TABLE sessions;', U&'\0441; DROP TABLE sessions';
-- case: 19-unicode-string-ending-in-a-backslash
SELECT U&'a\\'; DROP TABLE sessions; SELECT U&'\\';
-- case: 20-unquoted-other-letters
CREATE TABLE größe (straße text); DROP TABLE größe;
-- case: 20-numbers-and-ranges
SELECT 1.5e3, .5, 1., 2::text; DROP TABLE sessions;
-- case: 20-casts-and-parameters
PREPARE p (integer) AS SELECT $1::text || 'a'; DROP TABLE sessions; DEALLOCATE p;
-- case: 20-minus-minus-after-operator
SELECT 1 --1
; DROP TABLE sessions;
-- case: 20-upper-case-unquoted
drop TABLE SESSIONS;
-- case: 20-semicolon-in-parentheses-of-a-string
SELECT (';') || ';'; DROP TABLE "sessions";
-- case: 20-quoted-keyword-is-a-name-innocent
CREATE FUNCTION "drop"(integer) RETURNS integer LANGUAGE sql AS 'SELECT 1';
SELECT "drop"(1) AS "table";
-- case: 20-no-final-semicolon
DROP TABLE sessions
-- case: 20-final-comment-without-newline-innocent
SELECT 1 -- ; DROP TABLE sessions
-- case: 20-one-line-of-everything
SELECT 1;DROP TABLE sessions;SELECT 2
