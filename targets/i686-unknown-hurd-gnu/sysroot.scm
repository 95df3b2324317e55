;; What a static agent for the Hurd is linked with: a folder with the GNU system's headers, its static libraries, and those
;; files that programs begin and end with. On a machine with Guix:
;;
;;   HURD_SYSROOT=$(guix build -f targets/i686-unknown-hurd-gnu/sysroot.scm) ci/cross i686-unknown-hurd-gnu
(use-modules (gnu packages cross-base)
             (guix gexp))

(define target "i586-pc-gnu")
(define libc (cross-libc target))
;; The compiler that knows this C library: its own libraries are compiled with its headers.
(define gcc (cross-gcc target #:libc libc))

(computed-file
 "drover-hurd-sysroot"
 (with-imported-modules '((guix build utils))
   #~(begin
       (use-modules (guix build utils))

       ;; Libraries and crt files from wherever they are below a folder, into one.
       (define (gather folder)
         (for-each (lambda (file)
                     (let ((to (string-append #$output "/lib/" (basename file))))
                       (unless (file-exists? to)
                         (copy-file file to))))
                   (find-files folder "^(crt[01in]\\.o|lib.*\\.a)$")))

       (mkdir-p (string-append #$output "/lib"))
       (gather (string-append #$libc "/lib"))
       ;; What is in both outputs are the libraries with nothing in them.
       (gather (string-append #$libc:static "/lib"))
       (gather (string-append #$gcc "/lib/gcc"))
       (gather #$gcc:lib)
       (for-each (lambda (headers)
                   (copy-recursively headers (string-append #$output "/include")
                                     #:follow-symlinks? #t #:log #f))
                 (list (string-append #$(cross-kernel-headers target) "/include")
                       (string-append #$libc "/include"))))))
