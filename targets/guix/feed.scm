;;; The packages of a Guix as the rows of a set, a line of JSON each, for “drover set submit”. Nothing is built.
;;;
;;;   guix repl -- feed.scm [OPTION…] [NAME[@VERSION]…] > rows
;;;
;;; README.md beside this file says how it is used. This file is part of drover; GPL version 3 or later.

(use-modules (gnu packages) ((guix build-system) #:select (bag-build-inputs bag-host-inputs)) (guix derivations)
             (guix diagnostics) (guix discovery) (guix grafts) (guix packages) (guix platform) (guix profiles)
             ((guix serialization) #:select (nar-error?)) (guix store) (guix ui) (guix utils) (ice-9 format)
             (ice-9 match) (ice-9 rdelim) (ice-9 regex) (json) (srfi srfi-1) (srfi srfi-9) (srfi srfi-26)
             (srfi srfi-37) (srfi srfi-71))

(define help "Usage: guix repl -- feed.scm [OPTION…] [NAME[@VERSION]…]
Write the packages with these names, or all of them, as the rows of a set.

      --manifest=FILE       the packages of this manifest
      --list=FILE           those whose names are in this file, one on a line
      --system=SYSTEM       for this system, not this machine's; may be repeated
      --target=TRIPLE       cross-compiled for this target too; may be repeated
      --cross-from=SYSTEM   cross-compiled on this system only; may be repeated
      --priority=N          of all rows; higher goes first
      --tag=KEY=VALUE       a tag of all rows; may be repeated
      --root=FILE           a link that keeps the derivations from “guix gc” until
                            it is removed, or the next run replaces it
")

(define notes (current-error-port))
(define (note text . args) (format notes "feed.scm: ~?~%" text args))
(define (give-up text . args) (apply note text args) (exit 2))

;; What a package prints belongs to the notes, not into the rows.
(define rows (current-output-port))
(set-current-output-port notes)
(set-port-encoding! rows "UTF-8")
(setvbuf rows 'block)
(set-port-conversion-strategy! notes 'escape)

;;; Options.

(define options
  (let* ((keep (lambda (key) (lambda (option name value result) (alist-cons key value result))))
         (taking (lambda (name) (option (list name) #t #f (keep (string->symbol name))))))
    (args-fold (cdr (command-line))
               (cons (option '(#\h "help") #f #f (lambda _ (display help rows) (exit 0)))
                     (map taking '("manifest" "list" "system" "target" "cross-from" "priority" "tag" "root")))
               (lambda (option name . _) (give-up "there is no option “~a”; see --help" name))
               (cut alist-cons 'name <> <>)
               '())))

(define (values-of key) (reverse (filter-map (match-lambda ((k . value) (and (eq? k key) value))) options)))
(define (checked key known)
  (for-each (lambda (value)
              (unless (member value known)
                (give-up "this Guix knows no ~a “~a”; it has: ~a" key value (string-join known))))
            (values-of key))
  (values-of key))

(define wanted-systems
  (match (checked 'system (systems)) (() (list (%current-system))) (given (delete-duplicates given))))
(define cross-systems
  (match (checked 'cross-from (systems)) (() wanted-systems) (given (delete-duplicates given))))
;; Pairs of system and target.
(define parts
  (append (map (cut cons <> #f) wanted-systems)
          (append-map (lambda (target) (map (cut cons <> target) cross-systems))
                      (delete-duplicates (checked 'target (targets))))))

;; The fields that all rows have.
(define common
  (append (match (values-of 'priority)
            (() '())
            ((_ ... text)
             (match (string->number text)
               ((? exact-integer? n) `(("priority" . ,n)))
               (_ (give-up "--priority wants a whole number, not “~a”" text)))))
          (match (map (lambda (tag)
                        (match (string-index tag #\=)
                          (#f (give-up "--tag wants KEY=VALUE, not “~a”" tag))
                          (at (cons (string-take tag at) (string-drop tag (+ at 1))))))
                      (values-of 'tag))
            (() '())
            (tags `(("tags" . ,tags))))))

;;; Errors.

(define* (one-line text #:optional (limit 1000))
  (let* ((text (if (string? text) text (object->string text)))
         (line (string-join (string-tokenize text (char-set-complement (char-set-union char-set:iso-control
                                                                                       char-set:whitespace))))))
    (if (> (string-length line) limit) (string-append (string-take line limit) "…") line)))

(define (described key args)
  (define (text)
    (match (cons key args)
      ((_ (? formatted-message? c) . _)
       (apply format #f (formatted-message-string c) (formatted-message-arguments c)))
      ((_ (? store-protocol-error? c) . _) (store-protocol-error-message c))
      ((_ (? package-input-error? c) . _) (format #f "invalid input: ~s" (package-error-invalid-input c)))
      (('quit . _) "it ended the program; what it had to say is among the notes of the feeding")
      (_ (call-with-output-string (cut print-exception <> #f key args)))))
  ;; Addresses in memory are others the next time; the row should not be.
  (one-line (regexp-substitute/global #f " [0-9a-f]{7,12}( at |>)" (or (false-if-exception (text)) (object->string key))
                                      'pre 1 'post)))

;; What would start a build throws instead.
(define (without-builds thunk)
  (with-build-handler
      (lambda (continue store things mode)
        (error "its evaluation wants something built first, and feeding builds nothing:" things))
    (thunk)))

;; Whatever THUNK throws goes to HANDLER: 'quit too, since the code of packages likes to “leave”.
(define (attempt thunk handler)
  (catch #t (lambda () (without-builds thunk)) (lambda (key . args) (handler key args))))

;; What stands for a package that cannot be had.
(define-record-type <missing>
  (missing name version error)
  missing?
  (name missing-name)
  (version missing-version)
  (error missing-error))

(define (name-of package)
  (match (one-line ((if (missing? package) missing-name package-name) package) 250)
    ("" "(no name)")
    (name name)))
(define (version-of package)
  (one-line ((if (missing? package) missing-version package-version) package) 250))

;;; Packages.

;; A module that cannot be loaded takes all its packages with it: it has a row itself, so that somebody sees it.
(define (every-package)
  (define broken '())
  (define modules
    (without-builds
     (lambda ()
       (all-modules (%package-module-path)
                    #:warn (lambda (file module args)
                             (set! broken (cons (missing (object->string module) ""
                                                         (described (car args) (cdr args)))
                                                broken)))))))
  (append broken (fold-packages cons '() modules #:select? (negate package-superseded))))

(define (named specification)
  (let ((name version output (package-specification->name+version+output specification)))
    (match (find-packages-by-name name version)
      (() (missing (if (string-null? name) specification name) (or version "")
                   (format #f "there is no package ~a in this Guix" specification)))
      ((first . _) (or (package-superseded first) first)))))

(define (of-manifest file)
  (append-map (lambda (entry)
                (match (manifest-entry-item entry)
                  ((? package? package) (list package))
                  (_ (note "~a: ~a is not a package; left out" file (manifest-entry-name entry)) '())))
              (manifest-entries
               (without-builds (lambda () (load* file (make-user-module '((guix profiles) (gnu)))))))))

(define (of-list file)
  (define lines
    (call-with-input-file file
      (lambda (port) (string-split (read-string port) #\newline))
      #:encoding "UTF-8"))
  (map named (remove string-null? (map string-trim-both lines))))

(define (with-replacements package)
  (match (and (package? package)
              (attempt (lambda () (package-replacement package))
                       (lambda (key args)
                         (missing (name-of package) (version-of package) (described key args)))))
    (#f (list package))
    (replacement (cons package (with-replacements replacement)))))

;; In an order that is the same every time.
(define (sorted packages)
  (define (key package)
    (string-append (name-of package) "\0" (version-of package) "\0"
                   (or (and=> (and (package? package) (package-location package)) location->string) "")))
  (map cdr (sort (map (lambda (package) (cons (key package) package)) packages)
                 (lambda (a b) (string<? (car a) (car b))))))

(define packages
  (sorted (append-map with-replacements
                      (match (append (append-map of-manifest (values-of 'manifest))
                                     (append-map of-list (values-of 'list))
                                     (map named (values-of 'name)))
                        (() (if (any (cut assq <> options) '(manifest list name))
                                (give-up "that names no packages")
                                (every-package)))
                        (some some)))))

;;; The store.

;; The caches of a connection grow with all that it made, so that each part gets a new one. The old ones stay open
;; without their caches: what was made is kept from the garbage collector until they are closed.
(define kept-open '())
(define store #f)

(define (connect!)
  (set! store (open-connection))
  (set! kept-open (cons (store-connection-socket store) kept-open))
  (set-build-options store #:use-substitutes? #f #:offload? #f))

;; Whether the connection can be in disorder after this: broken, or stopped in the middle of sending a file.
(define (breaks-connection? key args)
  (match (cons key args)
    (('system-error . _) (not (= ENOENT (system-error-errno (cons key args)))))
    ((_ (? nar-error?) . _) #t)
    ((_ (? store-connection-error?) . _) #t)
    (_ #f)))

(define (keep-with-link file derivations)
  (let* ((link (string-append (canonicalize-path (dirname file)) "/" (basename file)))
         (new (string-append link ".new")))
    (false-if-exception (delete-file new))
    (symlink (add-text-to-store store "drover-feed" (string-join derivations "\n" 'suffix) derivations) new)
    (rename-file new link)
    (add-indirect-root store link)))

;;; Evaluation.

;; A package can be cross-compiled when it and all that it needs on the target support the target's system. Targets
;; without a system, such as avr, have no say. Guix would follow a circle for ever here; asking first finds circles.
(define (supports-target? system target)
  (define host (platform-target->system target))
  (define known (make-hash-table))
  (define (packages-in inputs) (filter-map (match-lambda ((_ (? package? input) . _) input) (_ #f)) inputs))
  (define (supports? package above)
    (when (memq package above)
      (error "dependency cycle at" (package-full-name package)))
    (match (hashq-ref known package)
      (#f
       (let* ((bag (package->bag package system target #:graft? #f))
              (answer (and (or (not host) (member host (package-supported-systems package)))
                           (every (cut supports? <> (cons package above)) (packages-in (bag-host-inputs bag))))))
         (for-each (cut supported-package? <> system) (packages-in (bag-build-inputs bag)))
         (hashq-set! known package (list answer))
         answer))
      ((answer) answer)))
  (cut supports? <> '()))

(define (cross-compilation-error? args)
  (match args
    ((c . _) (or (package-cross-build-system-error? c) (package-unsupported-target-error? c)
                 (unsupported-cross-compilation-target-error? c)))
    (_ #f)))

(define (derivation-of package system target)
  (if target
      (package-cross-derivation store package target system #:graft? #f)
      (package-derivation store package system #:graft? #f)))

(define (seconds package property field)
  (match (assq-ref (package-properties package) property)
    ((? exact-integer? n) (if (positive? n) `((,field . ,n)) '()))
    (_ '())))

;; The row's own fields, or why there is none.
(define* (evaluated package system target supported? #:optional (again? #t))
  (if (missing? package)
      `(("error" . ,(missing-error package)))
      (attempt
       (lambda ()
         (if (supported? package)
             (let ((derivation (derivation-of package system target)))
               `(("derivation" . ,(derivation-file-name derivation))
                 ,@(if (substitutable-derivation? derivation) '() '(("publish" . #f)))
                 ,@(seconds package 'timeout "timeout")
                 ,@(seconds package 'max-silent-time "max_silent_time")))
             'unsupported))
       (lambda (key args)
         (define broken? (breaks-connection? key args))
         (when broken? (connect!))
         (cond ((and target (cross-compilation-error? args)) 'not-cross)
               ((and broken? again?) (evaluated package system target supported? #f))
               (else `(("error" . ,(described key args)))))))))

;;; Rows.

;; The end of a row comes with the next one, and that of the last when all is done: rows that were broken off end in
;; the middle of one, so that nobody takes them for all.
(define row-end "")
(define (put-row text)
  (display row-end rows)
  (display (string-drop-right text 1) rows)
  (set! row-end "}\n"))

(define tally (make-hash-table))
(define (count! what) (hashq-set! tally what (+ 1 (counted what))))
(define (counted what) (hashq-ref tally what 0))
(define derivations '())

(define progress
  (let ((terminal? (isatty? notes)) (shown 0))
    (lambda (part done last?)
      (when (or last? (and terminal? (> (current-time) shown)))
        (set! shown (current-time))
        (format notes "~:[~;\r\x1b[K~]feed.scm: ~a: ~a of ~a packages, ~a rows so far, ~a not evaluated~:[~;~%~]"
                terminal? part done (length packages) (counted 'rows) (counted 'error) last?)
        (force-output notes)))))

(define (feed-part system target)
  (define supported?
    (if target (supports-target? system target) (cut supported-package? <> system)))
  ;; Two rows for one derivation that differ would be refused: the first one stays.
  (define seen (make-hash-table))
  (define (feed package)
    (match (evaluated package system target supported?)
      ((? symbol? reason) (count! reason))
      (((and wanted (what . value)) . fields)
       (let* ((names `(("package" . ,(name-of package)) ("version" . ,(version-of package)) ("system" . ,system)
                       ,@(if target `(("target" . ,target)) '())))
              (key (if (string=? what "error") names value))
              (row (scm->json-string `(,wanted ,@names ,@fields ,@common) #:unicode #t))
              (twin (hash-ref seen key)))
         (cond ((not twin)
                (hash-set! seen key row)
                (count! 'rows)
                (if (string=? what "error") (count! 'error) (set! derivations (cons value derivations)))
                (put-row row))
               ((not (string=? twin row)) (count! 'twin)))))))
  (invalidate-derivation-caches!)
  (connect!)
  (for-each (lambda (package index)
              (progress (if target (string-append target " on " system) system) index #f)
              (feed package))
            packages (iota (length packages)))
  (progress (if target (string-append target " on " system) system) (length packages) #t))

(parameterize ((%graft? #f))
  (for-each (match-lambda ((system . target) (feed-part system target))) parts))
(for-each (cut keep-with-link <> derivations) (values-of 'root))
(display row-end rows)
(force-output rows)
(note "~a rows, ~a of them not evaluated; left out: ~a not for the system or target, ~a whose build system does not \
cross-compile, ~a with the derivation of another row"
      (counted 'rows) (counted 'error) (counted 'unsupported) (counted 'not-cross) (counted 'twin))
